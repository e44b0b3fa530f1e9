// The opened stream: its facts, its rows, and what can be done with it.

import { getToken, pathOf, request, urlOf } from "./api.js";
import { chart, draw } from "./charts.js";
import { confirmed, creation } from "./dialogs.js";
import { $, ago, copy, element, notice, size, tell } from "./dom.js";
import { follow } from "./follow.js";
import { Reader } from "./reader.js";
import { Rows } from "./rows.js";

const BEHIND = 512 * 1024; // bytes up to which a view catches up row by row
const SAMPLES = 60; // of the sparkline
const SAMPLE_EVERY = 3000;
const EARLIER_PAGES = 16; // pages that a search for matching rows reads at a time
const ENOUGH = 50; // matching rows

// On a phone the rows and the composer come first.
$("stream-details").open = innerWidth > 800;

const rows = new Rows($("rows"), (position) => copy(opened.reader.offset(position), "Offset"));
const sparkline = chart("sparkline");
$("sparkline").append(sparkline);

// The opened stream: { path, controller, reader, state, atTail, atStart, updating, again, sizes }.
let opened = null;
let navigate = null;
let changed = null;

// `goTo` opens a stream by its path, or the list for null. `listChanged` is called after a stream was
// created, closed or deleted here.
export function setUp(goTo, listChanged) {
  navigate = goTo;
  changed = listChanged;
}

export function open(path, offset = null) {
  if (opened) opened.controller.abort();
  opened = null;
  follow(null, null);
  if (path === null) return;
  const controller = new AbortController();
  opened = {
    path,
    controller,
    reader: new Reader(path, controller.signal),
    state: null,
    atTail: false,
    atStart: false,
    updating: false,
    again: false,
    busy: false,
    sizes: [],
  };
  $("stream-name").textContent = path;
  $("append-error").textContent = "";
  $("facts").replaceChildren();
  rows.clear("messages");
  for (const id of ["stream-error", "stream-missing"]) tell(id, "");
  for (const id of ["stream-body", "reopen"]) $(id).hidden = true;
  live("", "opening");
  load(offset);
}

function live(kind, text) {
  $("live").className = `live ${kind}`;
  tell("live-text", text);
}

// Run a step for the opened stream; show its error unless another stream was opened meanwhile.
async function step(mine, action) {
  try {
    await action();
    if (opened === mine) tell("stream-error", "");
    return true;
  } catch (error) {
    if (opened !== mine || error.name === "AbortError") return false;
    tell("stream-error", error.message);
    return false;
  }
}

async function load(offset) {
  const mine = opened;
  mine.busy = true;
  try {
    const found = offset === null ? await mine.reader.before() : await mine.reader.after(offset);
    if (opened !== mine) return;
    const { stream, view } = mine.reader;
    rows.clear(view);
    rows.newestFirst = newestFirst(view);
    rows.addNewer(found, false);
    mine.atStart = !found.length || found[0].start === 0;
    mine.atTail = !found.length || found[found.length - 1].end >= stream.size;
    tell("stream-error", "");
    tell("stream-missing", "");
    show(stream);
    // What is hidden cannot be scrolled.
    if (offset === null) rows.showNewest();
    else rows.showOldest();
  } catch (error) {
    if (opened !== mine || error.name === "AbortError") return;
    missing(error, offset);
  } finally {
    mine.busy = false;
  }
  if (opened === mine) {
    edges();
    if (mine.state || $("stream-missing").textContent) follow(mine.path, (news) => opened === mine && told(mine, news));
    matching();
  }
}

function missing(error, offset) {
  $("stream-body").hidden = true;
  $("reopen").hidden = offset === null || error.status === 404;
  if (error.status === 404 && !opened.state) {
    tell("stream-missing", "There is no such stream. It opens here when it is created.");
    live("", "waiting for the stream");
  } else {
    tell("stream-error", error.message);
    live("bad", "not followed");
  }
}

function show(state) {
  opened.state = state;
  $("stream-body").hidden = false;
  const { view } = opened.reader;
  const isJSON = view === "messages";
  $("view").hidden = $("view-label").hidden = isJSON;
  $("view").value = view;
  $("newest-first").checked = rows.newestFirst;
  $("rows").classList.toggle("wide", view === "hex");
  const facts = [
    ["Type", state.content_type],
    ["Size", size(state.size)],
    ["Offset", state.next_offset],
    ["Last append", ago(state.active_at)],
  ];
  if (state.forked_from !== null) facts.push(["Fork of", state.forked_from]);
  if (state.ttl_seconds !== null) facts.push(["Expires", `${state.ttl_seconds} s after its last use`]);
  else if (state.expires_at !== null) facts.push(["Expires", state.expires_at]);
  $("facts").replaceChildren(
    ...facts.map(([name, value]) => element("div", {}, element("dt", { text: name }), element("dd", { text: value }))),
  );
  $("append-form").hidden = state.closed;
  $("closed-note").hidden = !state.closed;
  $("close-stream").disabled = state.closed;
  $("body").placeholder = isJSON ? "JSON: one message, or an array of messages" : "Text to append";
  tellLive();
}

function tellLive() {
  if (opened.state.closed && opened.atTail) live("", "closed");
  else if (!opened.atTail) live("", "paused");
  else live("good", "live");
}

// What is beyond the rows at both ends.
function edges() {
  const mine = opened;
  $("earlier").hidden = !mine.state || mine.atStart;
  $("to-newest").hidden = !mine.state || mine.atTail;
  $("later").hidden = !mine.state || mine.atTail;
  $("rows-empty").hidden = !mine.state || rows.list.length > 0;
  if (mine.state) tellLive();
}

// -- changes ---------------------------------------------------------------------------

function told(mine, { state, problem }) {
  if (problem !== undefined) return live("warn", `${problem.replace(/\.$/, "")}; reconnecting`);
  if (state === null) {
    if (!mine.state) return;
    mine.state = null;
    $("stream-body").hidden = true;
    tell("stream-missing", "The stream was deleted or has expired. It opens here when it is created again.");
    live("", "waiting for the stream");
    return;
  }
  // Another stream at the same path begins again.
  if (!mine.state || mine.state.created_at !== state.created_at) return load(null);
  show(state);
  update(mine);
}

// Show what was appended since the last row.
async function update(mine) {
  if (!mine.atTail || mine.busy) return edges();
  if (mine.updating) {
    mine.again = true;
    return;
  }
  mine.updating = true;
  const done = await step(mine, async () => {
    do {
      mine.again = false;
      const end = rows.last ? rows.last.end : 0;
      if (mine.state.size - end > BEHIND) return load(null);
      if (mine.state.size > end) {
        const { rows: found, replaces } = await mine.reader.next(rows.last);
        if (opened !== mine) return;
        if (replaces) rows.removeLast();
        rows.addNewer(found, true);
        if (rows.last && rows.last.end < mine.reader.stream.size) mine.again = true;
      }
    } while (mine.again && opened === mine);
  });
  mine.updating = false;
  if (opened === mine && done) edges();
}

// -- paging ----------------------------------------------------------------------------

async function page(action) {
  const mine = opened;
  if (!mine.state || mine.busy) return;
  mine.busy = true;
  await step(mine, () => action(mine));
  mine.busy = false;
  if (opened === mine) {
    edges();
    update(mine);
  }
}

async function earlier(mine) {
  if (mine.atStart || !rows.first) return;
  const found = await mine.reader.before(rows.first.start);
  if (opened !== mine) return;
  rows.addOlder(found);
  mine.atStart = !found.length || found[0].start === 0;
}

async function later(mine) {
  const found = await mine.reader.after(mine.reader.offset(rows.last ? rows.last.end : 0));
  if (opened !== mine) return;
  const kept = rows.keepNewest;
  rows.keepNewest = false;
  rows.addNewer(found, false);
  rows.keepNewest = kept;
  mine.atTail = !found.length || rows.last.end >= mine.reader.stream.size;
}

// Read earlier pages until enough rows satisfy the filter.
function matching() {
  if (!rows.filterText.trim() || rows.matching >= ENOUGH) return;
  page(async (mine) => {
    for (let pages = 0; pages < EARLIER_PAGES && !mine.atStart && rows.matching < ENOUGH; pages++) {
      await earlier(mine);
      if (opened !== mine) return;
    }
  });
}

$("earlier").addEventListener("click", () => page(earlier));
$("later").addEventListener("click", () => page(later));
for (const id of ["to-newest", "reopen"]) $(id).addEventListener("click", () => navigate(opened.path));
$("rows").addEventListener("scroll", () => {
  const { scrollTop, scrollHeight, clientHeight } = $("rows");
  const left = rows.newestFirst ? scrollHeight - clientHeight - scrollTop : scrollTop;
  if (opened && opened.state && !opened.atStart && !opened.busy && left < 200) page(earlier);
});
let typed;
$("filter").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(() => {
    rows.filter($("filter").value);
    if (opened && opened.state) matching();
  }, 150);
});
$("jump-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const offset = $("jump").value.trim();
  if (offset) navigate(opened.path, offset);
});

// -- view ------------------------------------------------------------------------------

const ORDER = "durable-streams-newest-first";

// Text is read downwards; messages and bytes have the newest on top, unless the user chose an order.
function newestFirst(view) {
  const chosen = localStorage.getItem(ORDER);
  return chosen === null ? view !== "appends" && view !== "lines" : chosen === "true";
}

$("newest-first").addEventListener("change", () => {
  localStorage.setItem(ORDER, $("newest-first").checked);
  rows.order($("newest-first").checked);
});
$("keep-newest").addEventListener("change", () => {
  rows.keepNewest = $("keep-newest").checked;
  if (rows.keepNewest) rows.showNewest();
});
$("view").addEventListener("change", () => {
  opened.reader.view = $("view").value;
  load(null);
});

// -- sparkline -------------------------------------------------------------------------

setInterval(() => {
  if (!opened || !opened.state || document.hidden) return;
  const { sizes } = opened;
  sizes.push(opened.state.size);
  if (sizes.length > SAMPLES) sizes.shift();
  const rates = sizes.slice(1).map((now, index) => Math.max(0, ((now - sizes[index]) * 1000) / SAMPLE_EVERY));
  if (!rates.length) return;
  const last = rates[rates.length - 1];
  draw(sparkline, rates, `Bytes appended per second, now ${size(last)}`);
  $("rate").textContent = `${size(last)}/s`;
}, SAMPLE_EVERY);

// -- actions ---------------------------------------------------------------------------

$("append-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = opened;
  const text = $("body").value;
  if (!text || !mine.state) return;
  $("append").disabled = true;
  tell("append-error", "");
  try {
    const headers = { "Content-Type": mine.state.content_type };
    const newline = mine.reader.view !== "messages" && $("newline").checked ? "\n" : "";
    await request(pathOf(mine.path), { method: "POST", headers, body: text + newline });
    if (opened === mine) $("body").value = "";
  } catch (error) {
    if (opened === mine) tell("append-error", error.message);
  }
  $("append").disabled = false;
  if (opened === mine) $("body").focus();
});

$("body").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("append-form").requestSubmit();
  }
});

$("copy-url").addEventListener("click", () => copy(urlOf(opened.path), "URL"));
$("copy-offset").addEventListener("click", () => copy(opened.state.next_offset, "Offset"));
$("copy-curl").addEventListener("click", () => {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const header = getToken() ? ' -H "Authorization: Bearer $TOKEN"' : "";
  copy(`curl${header} ${quoted(`${urlOf(opened.path)}?offset=-1`)}`, "curl command");
});

$("close-stream").addEventListener("click", async () => {
  const { path } = opened;
  const text = `Close ${path}? It takes no more appends and stays readable.`;
  const close = () => request(pathOf(path), { method: "POST", headers: { "Stream-Closed": "true" } });
  if (await confirmed(text, "Close stream", close)) changed();
});

$("delete-stream").addEventListener("click", async () => {
  const { path } = opened;
  const text = `Delete ${path} and everything in it? This cannot be undone.`;
  const remove = () => request(pathOf(path), { method: "DELETE" });
  if (!(await confirmed(text, "Delete stream", remove))) return;
  navigate(null);
  changed();
  notice(`${path} is deleted`);
});

$("fork").addEventListener("click", async () => {
  const { path, state } = opened;
  const name = await creation({
    title: `Fork ${path}`,
    name: `${path}-fork`,
    fork: { source: pathOf(path), offset: state.next_offset },
  });
  if (name === null) return;
  navigate(name);
  changed();
});

$("create-missing").addEventListener("click", async () => {
  if ((await creation({ title: "New stream", name: opened.path })) !== null) changed();
});

$("download").addEventListener("click", async () => {
  const mine = opened;
  $("download").disabled = true;
  const done = await step(mine, async () => save(mine, await download(mine)));
  $("download").disabled = false;
  if (done) notice("Download complete");
});

// The whole stream in responses of the size that the server chooses.
async function download(mine) {
  const parts = [];
  const isJSON = mine.reader.view === "messages";
  let offset = "-1";
  for (;;) {
    const options = { signal: mine.controller.signal };
    const response = await request(`${pathOf(mine.path)}?offset=${offset}`, options);
    const part = await response.blob();
    // Each response is an array: together they are one.
    if (!isJSON) parts.push(part);
    else if (part.size > 2) parts.push(parts.length ? "," : "", part.slice(1, -1));
    const next = response.headers.get("Stream-Next-Offset");
    if (response.headers.get("Stream-Up-To-Date") === "true" || next === offset) break;
    offset = next;
  }
  return new Blob(isJSON ? ["[", ...parts, "]"] : parts, { type: mine.state.content_type });
}

const ENDINGS = { "application/json": ".json", "text/plain": ".txt", "application/octet-stream": ".bin" };

function save(mine, blob) {
  const type = mine.state.content_type.split(";")[0];
  const url = URL.createObjectURL(blob);
  const link = element("a", { href: url, download: mine.path.replaceAll("/", "_") + (ENDINGS[type] || "") });
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}
