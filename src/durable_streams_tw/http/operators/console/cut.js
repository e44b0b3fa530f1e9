// Division of stored bytes into rows. Pure functions; positions count from the start of the bytes.

const QUOTE = 34, COMMA = 44, BACKSLASH = 92, NEWLINE = 10;
const OPENING = new Set([91, 123]), CLOSING = new Set([93, 125]);

export const BLOCK = 256; // bytes of a row of binary data without known appends

// How a content type is shown at first: json, text or hex.
export function kindOf(contentType) {
  const essence = contentType.split(";")[0].trim().toLowerCase();
  if (essence === "application/json") return "json";
  if (/^text\/|[+/](x-)?(json|ndjson|jsonl|xml|yaml|toml|javascript)$/.test(essence)) return "text";
  return "hex";
}

// The starts of JSON messages in bytes that end at a message boundary, in order. The first message
// may have begun earlier, unless `whole`.
//
// Scanned from the end, where it is certain that no string and no array is open. A quote ends a
// string going backwards if an even number of backslashes precedes it.
export function messagesBefore(bytes, whole) {
  const starts = [];
  let depth = 0;
  let inString = false;
  for (let at = bytes.length - 1; at >= 0; at--) {
    const byte = bytes[at];
    if (byte === QUOTE) {
      if (!inString) {
        inString = true;
        continue;
      }
      let before = at;
      while (before > 0 && bytes[before - 1] === BACKSLASH) before--;
      inString = (at - before) % 2 === 1;
    } else if (inString) continue;
    else if (CLOSING.has(byte)) depth++;
    else if (OPENING.has(byte)) depth--;
    else if (byte === COMMA && depth === 0 && at + 1 < bytes.length) starts.push(at + 1);
  }
  if (whole && bytes.length) starts.push(0);
  return starts.reverse();
}

// The ends of JSON messages, commas included, in bytes that begin at a message boundary.
export function messagesAfter(bytes) {
  const ends = [];
  let depth = 0;
  let inString = false;
  for (let at = 0; at < bytes.length; at++) {
    const byte = bytes[at];
    if (inString) {
      if (byte === BACKSLASH) at++;
      else if (byte === QUOTE) inString = false;
    } else if (byte === QUOTE) inString = true;
    else if (OPENING.has(byte)) depth++;
    else if (CLOSING.has(byte)) depth--;
    else if (byte === COMMA && depth === 0) ends.push(at + 1);
  }
  return ends;
}

// The starts of rows of text or binary data. `position` is that of the first byte in the stream,
// and `appends` are known starts of appends, after which none is missing; null divides by lines. The
// first of them may be before the bytes. Before it, text has a row per line and binary data a row per
// block.
export function rowStarts(kind, bytes, position, appends) {
  const known = (appends || []).map((at) => at - position);
  const unknown = known.length ? Math.max(known[0], 0) : bytes.length;
  const starts = position === 0 ? [0] : [];
  if (kind === "text") {
    for (let at = bytes.indexOf(NEWLINE); at >= 0 && at + 1 < unknown; at = bytes.indexOf(NEWLINE, at + 1))
      starts.push(at + 1);
  } else {
    for (let at = BLOCK - (position % BLOCK); at < unknown; at += BLOCK) starts.push(at);
    if (position % BLOCK === 0 && position && unknown) starts.unshift(0);
  }
  for (const at of known) if (at > 0 || (at === 0 && position)) starts.push(at);
  return starts;
}

// True if a later append may continue a row: an unfinished line, or a block that is not full.
export function isOpen(kind, bytes) {
  return kind === "text" ? bytes[bytes.length - 1] !== NEWLINE : bytes.length < BLOCK;
}

// Drop the bytes at the start that belong to a character of which the first byte is missing.
export function wholeCharacters(bytes) {
  let first = 0;
  while (first < 3 && first < bytes.length && (bytes[first] & 0xc0) === 0x80) first++;
  return bytes.subarray(first);
}

// Columns of a hex dump, each with a line for some bytes: positions, bytes in groups of eight, and
// the characters that are printable.
export function hexColumns(bytes, position, width = 16) {
  const columns = { positions: [], hex: [], characters: [] };
  for (let at = 0; at < bytes.length; at += width) {
    const line = Array.from(bytes.subarray(at, at + width));
    const hex = line.map((byte) => byte.toString(16).padStart(2, "0"));
    const groups = [];
    while (hex.length) groups.push(hex.splice(0, 8).join(" "));
    columns.positions.push((position + at).toString(16).padStart(8, "0"));
    columns.hex.push(groups.join("  "));
    columns.characters.push(line.map((byte) => (byte >= 32 && byte < 127 ? String.fromCharCode(byte) : ".")).join(""));
  }
  return columns;
}
