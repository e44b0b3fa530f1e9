// The rows of a stream on the page.

import { styled } from "./ansi.js";
import { hexColumns } from "./cut.js";
import { button, clock, element } from "./dom.js";
import { matcher, pretty } from "./json.js";
import { textOf } from "./reader.js";

const KEPT = 5000; // rows; older ones go when newer ones arrive
const LONGEST = 4000; // characters or bytes of a row that are shown at first

export class Rows {
  // `copyOffset` is called with the start of a row.
  constructor(place, copyOffset) {
    this.place = place;
    this.copyOffset = copyOffset;
    this.newestFirst = false;
    this.keepNewest = true;
    this.clear("messages");
  }

  clear(view) {
    this.view = view;
    this.list = [];
    this.place.replaceChildren();
    this.filter(this.filterText || "");
  }

  get first() {
    return this.list[0];
  }

  get last() {
    return this.list[this.list.length - 1];
  }

  // Number of rows that satisfy the filter.
  get matching() {
    return this.list.filter((one) => !one.element.hidden).length;
  }

  addOlder(rows) {
    for (const one of rows) this.render(one);
    this.list.unshift(...rows);
    this.keepPosition(!this.newestFirst, () => this.insert(rows, this.newestFirst));
  }

  addNewer(rows, live) {
    const now = live ? new Date() : null;
    for (const one of rows) this.render(one, now);
    this.list.push(...rows);
    this.keepPosition(this.newestFirst, () => this.insert(rows, !this.newestFirst));
    for (const one of this.list.splice(0, this.list.length - KEPT)) one.element.remove();
    if (this.keepNewest) this.showNewest();
  }

  removeLast() {
    this.list.pop().element.remove();
  }

  insert(rows, atEnd) {
    const elements = rows.map((one) => one.element);
    if (this.newestFirst) elements.reverse();
    this.place[atEnd ? "append" : "prepend"](...elements);
  }

  // Insert above what is in view without moving it.
  keepPosition(above, insert) {
    const before = this.place.scrollHeight;
    const top = this.place.scrollTop;
    insert();
    if (above) this.place.scrollTop = top + this.place.scrollHeight - before;
  }

  showNewest() {
    this.showEnd(this.newestFirst, this.last);
  }

  showOldest() {
    this.showEnd(!this.newestFirst, this.first);
  }

  showEnd(atTop, one) {
    this.place.scrollTop = atTop ? 0 : this.place.scrollHeight;
    // The heights of rows that were never in view are estimates.
    if (one && !atTop) one.element.scrollIntoView({ block: "end" });
  }

  order(newestFirst) {
    if (newestFirst !== this.newestFirst) {
      this.newestFirst = newestFirst;
      this.place.replaceChildren();
      this.insert(this.list, true);
    }
    this.showNewest();
  }

  filter(text) {
    this.filterText = text;
    this.matches = matcher(text, this.view === "messages");
    for (const one of this.list) one.element.hidden = !this.matches(one.text);
  }

  render(one, arrived = null) {
    one.text = textOf(one, this.view);
    const at = button(String(one.start), () => this.copyOffset(one.start), "at");
    at.title = "Copy the offset at which this row begins";
    const margin = element("div", { className: "margin" }, at);
    if (arrived) {
      const time = element("time", { text: clock.format(arrived), dateTime: arrived.toISOString() });
      time.title = "Time of arrival in this browser";
      margin.append(time);
    }
    one.element = element("div", { className: "row", hidden: !this.matches(one.text) }, margin, this.body(one));
  }

  body(one, whole = false) {
    const body = element("div", { className: `body ${this.view}` });
    const long = (this.view === "hex" ? one.bytes : one.text).length;
    if (this.view === "hex") {
      const bytes = whole ? one.bytes : one.bytes.subarray(0, LONGEST / 8);
      const columns = hexColumns(bytes, one.start, innerWidth < 700 ? 8 : 16);
      for (const [className, lines] of Object.entries(columns))
        body.append(element("span", { className, text: lines.join("\n") }));
    } else {
      const text = whole ? one.text : one.text.slice(0, LONGEST);
      const parts = this.view === "messages" ? pretty(text) : styled(text);
      for (const [piece, className] of parts)
        body.append(className ? element("span", { className, text: piece }) : piece);
    }
    if (!whole && long > (this.view === "hex" ? LONGEST / 8 : LONGEST))
      body.append(button(`… show all ${long.toLocaleString("en")}`, () => body.replaceWith(this.body(one, true)), "all"));
    return body;
  }
}
