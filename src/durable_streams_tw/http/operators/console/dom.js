// Elements, texts and numbers. Content of streams becomes text, never markup.

export const $ = (id) => document.getElementById(id);

export function element(tag, { text, className, ...properties } = {}, ...children) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  Object.assign(made, properties);
  made.append(...children);
  return made;
}

export function button(text, action, className) {
  const made = element("button", { text, className, type: "button" });
  made.addEventListener("click", action);
  return made;
}

// Show a text in an element that is hidden without one.
export function tell(id, text) {
  const place = $(id);
  if (place.textContent !== text) place.textContent = text;
  place.hidden = !text;
}

// Put nodes into a place in an order, moving only those that are elsewhere: the focus is kept.
export function arrange(place, nodes) {
  let at = place.firstChild;
  for (const node of nodes) {
    if (node === at) at = at.nextSibling;
    else place.insertBefore(node, at);
  }
  while (at) {
    const next = at.nextSibling;
    at.remove();
    at = next;
  }
}

export function size(bytes) {
  if (bytes < 1024) return `${Math.round(bytes)} B`;
  let value = bytes;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    value /= 1024;
    if (value < 1024 || unit === "TiB") return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
  }
}

export const count = (value) => value.toLocaleString("en", { maximumFractionDigits: value < 10 ? 1 : 0 });

export const counted = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;

export const milliseconds = (seconds) =>
  `${(seconds * 1000).toLocaleString("en", { maximumFractionDigits: seconds < 0.01 ? 2 : 0 })} ms`;

export const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

const STEPS = [[60, "s"], [60, "min"], [24, "h"], [Infinity, "d"]];

// A duration in its largest unit, such as 5 min.
export function duration(seconds) {
  let value = Math.max(0, seconds);
  for (const [limit, unit] of STEPS) {
    if (value < limit) return `${Math.floor(value)} ${unit}`;
    value /= limit;
  }
}

export const ago = (timestamp) => `${duration((Date.now() - Date.parse(timestamp)) / 1000)} ago`;

let noticed;

// Confirm an action for some seconds.
export function notice(text) {
  tell("notice", text);
  clearTimeout(noticed);
  noticed = setTimeout(() => tell("notice", ""), 3000);
}

export async function copy(text, label) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // The clipboard is available on HTTPS and localhost only.
    const area = element("textarea", { value: text, className: "hidden" });
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  notice(`${label} copied`);
}

// Resolve after a time, or once a signal is aborted.
export function wait(milliseconds, signal) {
  return new Promise((resume) => {
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resume();
    };
    const timer = setTimeout(done, signal.aborted ? 0 : milliseconds);
    signal.addEventListener("abort", done);
  });
}
