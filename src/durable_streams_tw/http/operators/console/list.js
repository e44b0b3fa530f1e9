// The list of streams: search, tree, order; it refreshes itself.

import { getJSON } from "./api.js";
import { $, ago, arrange, counted, element, size, tell } from "./dom.js";

const PAGE = 200; // streams of one page
const MOST = 1000; // streams of one request
const SHORT_PAGES = 20; // requests for one page: the server examines a bounded number of names in each
const EVERY = 5000; // milliseconds between refreshes, at least
const SHARE = 20; // a refresh takes at most this part of the time

let open = null;
let chosen = null;
// Entries on the page: { key, label, stream or folder, depth }, and the argument of the next page.
let entries = [];
let after = null;
let wanted = PAGE; // entries to show
let complete = true;
let loading = new AbortController(); // of the current list requests
let byPrefix = false; // the token allows lists of a prefix only
let timer = null;
const expanded = new Set();
const items = new Map(); // elements by key

const search = () => $("search").value;
const order = () => $("order").value;
const isTree = () => order() === "tree" && !search();

const ORDER = "durable-streams-order";

// `openStream` is called with the path that the user chooses.
export function setUp(openStream) {
  open = openStream;
  $("order").value = localStorage.getItem(ORDER) || "name";
  refresh();
}

// Request the list again, as far as it is shown.
export async function refresh() {
  loading.abort();
  const mine = (loading = new AbortController());
  clearTimeout(timer);
  if (document.hidden) return;
  const began = performance.now();
  try {
    const found = await load();
    if (mine !== loading) return;
    ({ entries, after, complete } = found);
    tell("list-error", "");
  } catch (error) {
    if (mine !== loading) return;
    if (error.status === 403 && !byPrefix) {
      byPrefix = true;
      return refresh();
    }
    if (error.status === 401 || error.status === 403) entries = [];
    after = null;
    const hint = error.status === 403 ? " Type a prefix that it allows, such as chat/." : "";
    tell("list-error", error.message + hint);
    byPrefix = false;
    show(false);
    return plan(began);
  }
  show(true);
  plan(began);
}

const plan = (began) => {
  timer = setTimeout(refresh, Math.max(EVERY, SHARE * (performance.now() - began)));
};

const ask = (query) => getJSON("/-/streams", query, { signal: loading.signal });

async function load() {
  if (isTree()) return loadLevel("", 0);
  const query = byPrefix ? { prefix: search() } : { contains: search() };
  if (order() === "size" || order() === "active") {
    const page = await ask({ ...query, sort: order(), limit: Math.min(wanted, MOST) });
    const more = page.streams.length === wanted && wanted < MOST ? "more" : null;
    return { entries: page.streams.map(flat), after: more, complete: page.complete };
  }
  const found = await pages(query, wanted);
  return { entries: found.streams.map(flat), after: found.after, complete: true };
}

// The entries of one level of the tree and of the expanded folders in it.
async function loadLevel(prefix, depth) {
  const query = { tree: true, prefix };
  const found = await pages(query, depth ? MOST : wanted);
  const level = [
    ...found.streams.map((stream) => ({ key: stream.path, stream, depth, label: stream.path.slice(prefix.length) })),
    ...found.folders.map((folder) => ({ key: folder, folder, depth, label: folder.slice(prefix.length) })),
  ].sort((one, other) => (one.key < other.key ? -1 : 1));
  const all = [];
  for (const entry of level) {
    all.push(entry);
    if (entry.folder && expanded.has(entry.folder)) all.push(...(await loadLevel(entry.folder, depth + 1)).entries);
  }
  if (depth && found.after !== null) all.push({ key: `${prefix} …`, label: "more: search for it", depth });
  return { entries: all, after: found.after, complete: true };
}

// Request pages until there are enough streams and folders.
async function pages(query, enough) {
  const streams = [];
  const folders = [];
  let next = "";
  for (let tries = 0; next !== null && streams.length + folders.length < enough; tries++) {
    if (tries === SHORT_PAGES + enough / MOST) break;
    const limit = Math.min(enough - streams.length - folders.length, MOST);
    const page = await ask({ ...query, limit, after: next });
    streams.push(...page.streams);
    for (const folder of page.folders || []) if (!folders.includes(folder)) folders.push(folder);
    next = page.after;
  }
  return { streams, folders, after: next };
}

const flat = (stream) => ({ key: stream.path, stream, depth: 0, label: stream.path });

// -- display ---------------------------------------------------------------------------

function show(known) {
  const place = $("streams");
  const keys = new Set(entries.map((entry) => entry.key));
  for (const key of items.keys()) if (!keys.has(key)) items.delete(key);
  arrange(place, entries.map(item));
  const number = (kind) => entries.filter((entry) => entry[kind]).length;
  const found = ["folder", "stream"].filter(number).map((kind) => counted(number(kind), kind));
  let text = found.join(", ") || "0 streams";
  if (after !== null) text = `the first ${entries.length}`;
  if (!complete) text += " of those examined: search to narrow them down";
  if (known) tell("list-count", text);
  else tell("list-count", "");
  const nothing = search() ? "No stream matches." : "There are no streams yet.";
  tell("list-empty", known && !entries.length ? nothing : "");
  $("more").hidden = after === null;
}

// The element of an entry; it is kept while the entry is listed, and with it the focus.
function item(entry) {
  const { key, stream, folder, label, depth } = entry;
  let made = items.get(key);
  if (!made || made.isFolder !== Boolean(folder)) {
    const control = element("button", { type: "button", title: key, className: folder ? "folder" : "" });
    control.append(...["name", "size", "kind"].map((className) => element("span", { className })));
    if (folder) control.addEventListener("click", () => toggle(folder));
    else if (stream) control.addEventListener("click", () => open(key));
    else control.disabled = true;
    made = { isFolder: Boolean(folder), control, node: element("li", {}, control) };
    items.set(key, made);
  }
  const [name, extent, kind] = made.control.children;
  const write = (place, text) => place.textContent !== text && (place.textContent = text);
  made.control.dataset.depth = Math.min(depth, 8);
  write(name, label);
  if (folder) made.control.setAttribute("aria-expanded", expanded.has(folder));
  if (stream) {
    write(extent, size(stream.size));
    const tags = [stream.closed && "closed", stream.forked_from !== null && "fork"].filter(Boolean);
    write(kind, [stream.content_type, ...tags, ago(stream.active_at)].join(" · "));
    if (key === chosen) made.control.setAttribute("aria-current", "true");
    else made.control.removeAttribute("aria-current");
  }
  return made.node;
}

// Mark the stream that is open.
export function mark(path) {
  chosen = path;
  for (const [key, { control }] of items) {
    if (key === path) control.setAttribute("aria-current", "true");
    else control.removeAttribute("aria-current");
  }
}

function toggle(folder) {
  if (!expanded.delete(folder)) expanded.add(folder);
  refresh();
}

function restart() {
  wanted = PAGE;
  byPrefix = false;
  $("streams").scrollTop = 0;
  refresh();
}

function more() {
  if (after === null) return;
  wanted = entries.length + PAGE * 4;
  refresh();
}

// -- events ----------------------------------------------------------------------------

let typed;
$("search").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(restart, 150);
});
$("search-form").addEventListener("submit", (event) => event.preventDefault());
$("order").addEventListener("change", () => {
  localStorage.setItem(ORDER, order());
  restart();
});
$("more").addEventListener("click", more);
new IntersectionObserver(([{ isIntersecting }]) => isIntersecting && more(), { root: $("list-scroll"), rootMargin: "300px" }).observe($("more"));

$("search").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown") return;
  const first = $("streams").querySelector("button");
  if (first) first.focus();
  event.preventDefault();
});
$("streams").addEventListener("keydown", (event) => {
  const at = document.activeElement;
  if (at.classList.contains("folder")) {
    const isOpen = at.getAttribute("aria-expanded") === "true";
    if ((event.key === "ArrowRight" && !isOpen) || (event.key === "ArrowLeft" && isOpen)) return at.click();
  }
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [...$("streams").querySelectorAll("button")];
  const next = buttons[buttons.indexOf(at) + step];
  if (next) next.focus();
  else if (step < 0) $("search").focus();
  event.preventDefault();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return;
  if (document.querySelector("dialog[open]")) return;
  event.preventDefault();
  $("search").focus();
});
document.addEventListener("visibilitychange", refresh);
