// Reading of one stream in both directions, as rows: { start, end, bytes }.

import { getJSON } from "./api.js";
import { isOpen, kindOf, messagesAfter, messagesBefore, rowStarts, wholeCharacters } from "./cut.js";

const PAGE = 64 * 1024; // bytes of one page
const MOST = 256 * 1024; // bytes of one request
const LARGEST = 16 * 1024 * 1024; // bytes of a message that is shown

export class Reader {
  constructor(path, signal) {
    this.path = path;
    this.signal = signal;
    this.stream = null; // the state that the last response described
    this.incarnations = [];
    this.view = null; // messages, appends, lines or hex
  }

  // Offset of a position, as text.
  offset(position) {
    let number = "0";
    for (const [begin, incarnation] of this.incarnations)
      if (begin < position || begin === 0) number = incarnation;
    return `${number.padStart(20, "0")}_${String(position).padStart(16, "0")}`;
  }

  async ask(query) {
    const body = await getJSON("/-/bytes", { stream: this.path, ...query }, { signal: this.signal });
    this.stream = body.stream;
    this.incarnations = body.incarnations;
    const kind = kindOf(body.stream.content_type);
    this.view ??= { json: "messages", text: "appends", hex: "hex" }[kind];
    const bytes = Uint8Array.from(atob(body.data), (character) => character.charCodeAt(0));
    return { start: body.start, bytes, appends: body.appends };
  }

  // The rows of a page that ends at a position, or at the tail.
  async before(position = null) {
    const at = position === null ? "now" : this.offset(position);
    let page = await this.ask({ before: at, limit: PAGE });
    for (;;) {
      const rows = this.cut(page, page.start === 0, false);
      if (rows.length || page.start === 0) return rows;
      if (this.view !== "messages") return [row(page, 0, page.bytes.length)];
      page = join(await this.range(page, page.start - MOST, page.start), page);
    }
  }

  // The rows of a page that begins at an offset. The stream has more if it is longer than the last.
  async after(offset) {
    let page = await this.ask({ after: offset, limit: MOST });
    for (;;) {
      const rows = this.cut(page, true, true);
      const end = page.start + page.bytes.length;
      if (rows.length || end >= this.stream.size) return rows;
      page = join(page, await this.range(page, end, Math.min(end + MOST, this.stream.size)));
    }
  }

  // The rows after the last one that is shown. They replace it if it was an unfinished line or block.
  async next(last) {
    const offset = this.offset(last ? last.end : 0);
    if (!last || this.view === "messages" || !isOpen(this.cutAs, last.bytes))
      return { rows: await this.after(offset), replaces: false };
    const page = await this.ask({ after: offset, limit: MOST });
    if (!page.bytes.length) return { rows: [], replaces: false };
    const replaces = this.view === "lines" || !page.appends.includes(page.start);
    const rows = this.cut(replaces ? join({ ...last, appends: [] }, page) : page, true, true);
    return { rows, replaces };
  }

  // Bytes that continue a page in which no message is whole.
  async range(page, start, stop) {
    if (page.bytes.length > LARGEST)
      throw new Error("A message here is too large to be shown: download the stream.");
    return this.ask({ before: this.offset(stop), limit: stop - Math.max(start, 0) });
  }

  get cutAs() {
    return this.view === "hex" ? "hex" : "text";
  }

  // The whole rows of a page. It begins where a row `begins`, or, if it is JSON and does not extend
  // `forwards`, it ends where a message ends.
  cut(page, begins, forwards) {
    const { bytes } = page;
    if (this.view === "messages")
      return forwards
        ? between(page, [0, ...messagesAfter(bytes)], true)
        : between(page, messagesBefore(bytes, begins));
    const starts = rowStarts(this.cutAs, bytes, page.start, this.view === "lines" ? null : page.appends);
    if (begins && bytes.length && starts[0] !== 0) starts.unshift(0);
    return between(page, starts);
  }
}

function join(first, second) {
  const bytes = new Uint8Array(first.bytes.length + second.bytes.length);
  bytes.set(first.bytes);
  bytes.set(second.bytes, first.bytes.length);
  return { start: first.start, bytes, appends: [...first.appends, ...second.appends] };
}

// Rows from each start to the next. Bytes after the last start are a row unless `ended`.
function between(page, starts, ended = false) {
  const stops = ended ? starts.slice(1) : [...starts.slice(1), page.bytes.length];
  return stops.map((stop, index) => row(page, starts[index], stop)).filter((one) => one.end > one.start);
}

function row(page, start, stop) {
  return { start: page.start + start, end: page.start + stop, bytes: page.bytes.subarray(start, stop) };
}

const decoder = new TextDecoder();

// Text of a row: without the comma after a message, and without the line feed at its end.
export function textOf(one, view) {
  const bytes = view === "messages" ? one.bytes.subarray(0, -1) : wholeCharacters(one.bytes);
  const text = decoder.decode(bytes);
  return view === "messages" ? text : text.replace(/\r?\n$/, "");
}
