// ANSI escape sequences of terminals: colours and styles become class names, others are dropped.

// Control sequences (CSI), operating system commands (OSC) and two-character sequences. The first
// group is the parameters of "select graphic rendition".
const SEQUENCE = /\x1b\[([\d;:]*)m|\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)|\x1b[ -/]*[0-~]/g;
const STYLES = { 1: "bold", 3: "italic", 4: "underlined", 7: "inverse", 9: "struck" };
const ENDS = { 22: "bold", 23: "italic", 24: "underlined", 27: "inverse", 29: "struck" };

// Divide text into parts of one style: [[text, class names], …].
export function styled(text) {
  const parts = [];
  const styles = new Set();
  const colours = { f: null, g: null };
  let from = 0;
  const push = (piece) => {
    if (!piece) return;
    const names = [...styles];
    for (const [ground, colour] of Object.entries(colours)) if (colour !== null) names.push(ground + colour);
    parts.push([piece, names.join(" ")]);
  };
  for (const found of text.matchAll(SEQUENCE)) {
    push(text.slice(from, found.index));
    from = found.index + found[0].length;
    if (found[1] !== undefined) select(found[1], styles, colours);
  }
  push(text.slice(from));
  return parts;
}

function select(parameters, styles, colours) {
  const codes = parameters.split(/[;:]/).map(Number);
  while (codes.length) {
    const code = codes.shift();
    const ground = code >= 40 && code < 50 || code >= 100 ? "g" : "f";
    if (code === 0) {
      styles.clear();
      colours.f = colours.g = null;
    } else if (STYLES[code]) styles.add(STYLES[code]);
    else if (ENDS[code]) styles.delete(ENDS[code]);
    else if (code === 38 || code === 48) colours[ground] = extended(codes);
    else if (code === 39 || code === 49) colours[ground] = null;
    else if ((code >= 30 && code < 48) || (code >= 90 && code < 108)) colours[ground] = code % 10;
  }
}

// One of the eight colours for "5;n" (256 colours) or "2;r;g;b".
function extended(codes) {
  if (codes.shift() === 5) {
    const number = codes.shift();
    if (number < 16) return number % 8;
    if (number >= 232) return number < 244 ? 0 : 7;
    const cube = number - 16;
    return nearest(Math.floor(cube / 36) * 51, (Math.floor(cube / 6) % 6) * 51, (cube % 6) * 51);
  }
  return nearest(...codes.splice(0, 3));
}

const nearest = (red, green, blue) => (red > 127 ? 1 : 0) + (green > 127 ? 2 : 0) + (blue > 127 ? 4 : 0);
