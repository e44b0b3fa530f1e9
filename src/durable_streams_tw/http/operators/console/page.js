"use strict";

// Stream contents are inserted as text, never as markup.

const PAGE = 100; // streams on one page of the list
const ENTRIES = 1000; // entries of a tail kept in the page
const LONGEST = 20000; // characters shown of one entry
const SMALL = 256 * 1024; // largest stream shown from its beginning, in bytes
const PAUSES = [500, 1000, 2000, 5000, 10000]; // milliseconds before a tail reconnects
const NUMBERS_EVERY = 3000;

const $ = (id) => document.getElementById(id);
// A proxy may serve everything below another path.
const base = location.pathname.replace(/\/-\/console\/?$/, "");

let token = "";
let root = "/v1/stream/";
let after = null; // start of the next page of the list
let listing = 0; // number of list requests: a late response is dropped
let chosen = null; // the selected stream
let tail = null; // the AbortController of its tail
let before = null; // the previous metrics: { time, values }

// -- requests --------------------------------------------------------------------------

async function ask(path, options = {}) {
  const headers = new Headers(options.headers);
  if (token) headers.set("Authorization", `Bearer ${token}`);
  return fetch(base + path, { ...options, headers, cache: "no-store", redirect: "error" });
}

async function complaint(answer) {
  let detail = "";
  try {
    const problem = await answer.json();
    detail = problem.detail || problem.title || (problem.error && problem.error.message) || "";
  } catch {
    detail = answer.statusText;
  }
  if (answer.status === 401) return `A valid token is needed. ${detail}`.trim();
  if (answer.status === 403) return `The token does not allow this. ${detail}`.trim();
  return `${answer.status}: ${detail}`;
}

async function asked(path, options) {
  const answer = await ask(path, options);
  if (!answer.ok) throw new Error(await complaint(answer));
  return answer;
}

const target = (name) => root + name.split("/").map(encodeURIComponent).join("/");

// -- display --------------------------------------------------------------------------

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

let noticed;
function say(text, fine = false) {
  const notice = $("notice");
  notice.textContent = text;
  notice.classList.toggle("fine", fine);
  notice.hidden = false;
  clearTimeout(noticed);
  noticed = setTimeout(() => (notice.hidden = true), fine ? 2500 : 8000);
}

const because = (error) =>
  error instanceof TypeError ? "The server does not answer." : error.message;

function size(bytes) {
  if (bytes < 1024) return `${bytes} B`;
  let value = bytes;
  for (const unit of ["KiB", "MiB", "GiB", "TiB"]) {
    value /= 1024;
    if (value < 1024 || unit === "TiB") return `${value.toFixed(value < 10 ? 1 : 0)} ${unit}`;
  }
}

function state(id, kind, text) {
  $(id).className = `${id} ${kind}`;
  if ($(`${id}-text`).textContent !== text) $(`${id}-text`).textContent = text;
}

// -- the list --------------------------------------------------------------------------

async function list(more = false) {
  const mine = ++listing;
  const query = new URLSearchParams({ prefix: $("prefix").value, limit: PAGE });
  if (more && after !== null) query.set("after", after);
  try {
    let page = await (await asked(`/-/streams?${query}`)).json();
    const found = page.streams;
    // A page may be short or empty, as the server examines a bounded number of names.
    for (let tries = 0; found.length < PAGE && page.after !== null && tries < 20; tries++) {
      query.set("after", page.after);
      page = await (await asked(`/-/streams?${query}`)).json();
      found.push(...page.streams);
    }
    if (mine !== listing) return;
    root = page.root;
    after = page.after;
    showList(found, more);
  } catch (error) {
    if (mine !== listing) return;
    after = null;
    showList([], false);
    $("list-count").textContent = "Could not load streams";
    say(because(error));
  }
}

function showList(streams, more) {
  const place = $("streams");
  if (!more) place.replaceChildren();
  for (const stream of streams) place.append(listed(stream));
  const count = place.querySelectorAll("button").length;
  if (!count) place.append(element("li", $("prefix").value ? "None begins so" : "There are no streams yet", "nothing"));
  $("list-count").textContent = after === null ? `${count} stream${count === 1 ? "" : "s"}` : `the first ${count}`;
  $("more").hidden = after === null;
  mark();
}

function listed(stream) {
  const item = element("li");
  const button = element("button");
  button.type = "button";
  button.dataset.path = stream.path;
  button.title = stream.path;
  const kind = element("span", undefined, "kind");
  kind.append(element("span", stream.content_type));
  if (stream.closed) kind.append(element("span", "closed", "tag"));
  if (stream.forked_from !== null) kind.append(element("span", "fork", "tag"));
  button.append(element("span", stream.path, "name"), element("span", size(stream.size), "size"), kind);
  button.addEventListener("click", () => {
    go(stream.path);
    $("stream-pane").focus();
  });
  item.append(button);
  return item;
}

function mark() {
  for (const button of $("streams").querySelectorAll("button")) {
    if (chosen && button.dataset.path === chosen.path) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
}

$("streams").addEventListener("keydown", (event) => {
  const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
  if (!step) return;
  const buttons = [...$("streams").querySelectorAll("button")];
  const next = buttons[buttons.indexOf(document.activeElement) + step];
  if (next) next.focus();
  else if (step < 0) $("prefix").focus();
  event.preventDefault();
});

// -- one stream ------------------------------------------------------------------------

function go(name) {
  const hash = name === null ? "" : `#${encodeURIComponent(name)}`;
  if (location.hash === hash) open(name);
  else if (hash) location.hash = hash;
  else history.pushState(null, "", location.pathname), open(null);
}

function named() {
  try {
    return location.hash.length > 1 ? decodeURIComponent(location.hash.slice(1)) : null;
  } catch {
    return null;
  }
}

async function open(name) {
  stop();
  chosen = null;
  mark();
  $("stream").hidden = name === null;
  $("empty").hidden = name !== null;
  document.title = name === null ? "Durable Streams console" : `${name} · Durable Streams`;
  if (name === null) return;
  const mine = (chosen = { path: name, type: "", json: false, size: 0 });
  mark();
  $("stream-name").textContent = name;
  $("facts").replaceChildren();
  $("tail").replaceChildren();
  closed(false);
  state("live", "", "opening");
  try {
    const answer = await ask(target(name), { method: "HEAD" });
    if (chosen !== mine) return;
    if (!answer.ok) {
      // The response to HEAD has no body.
      state("live", "bad", { 401: "a valid token is needed", 403: "the token does not allow this", 404: "there is no such stream", 410: "deleted; its forks live on" }[answer.status] || `the server responded with ${answer.status}`);
      return;
    }
    const header = answer.headers;
    mine.type = header.get("Content-Type") || "";
    mine.json = /^application\/json\b/i.test(mine.type);
    mine.offset = header.get("Stream-Next-Offset") || "";
    mine.size = Number(mine.offset.split("_")[1]) || 0;
    mine.ttl = header.get("Stream-TTL");
    mine.expires = header.get("Stream-Expires-At");
    mine.closed = header.get("Stream-Closed") === "true";
    $("from").value = mine.size > SMALL ? "now" : "-1";
    $("body").placeholder = mine.json ? "JSON: one message, or an array of them" : "Append to the stream";
    facts();
    closed(mine.closed);
    follow($("from").value);
  } catch (error) {
    if (chosen === mine) state("live", "bad", because(error));
  }
}

function facts() {
  const told = [["Type", chosen.type], ["Size", size(chosen.size)], ["Offset", chosen.offset]];
  if (chosen.ttl) told.push(["Ends", `${chosen.ttl} s after its last use`]);
  if (chosen.expires) told.push(["Ends", chosen.expires]);
  $("facts").replaceChildren(
    ...told.map(([name, value]) => {
      const pair = element("div");
      pair.append(element("dt", name), element("dd", value));
      return pair;
    }),
  );
}

function closed(is) {
  for (const id of ["body", "append", "close-stream"]) $(id).disabled = is;
  if (is) $("body").placeholder = "The stream is closed: nothing can be appended any more";
}

// -- its tail --------------------------------------------------------------------------

function stop() {
  if (tail) tail.abort();
  tail = null;
}

async function follow(from) {
  stop();
  const mine = chosen;
  const control = (tail = new AbortController());
  let offset = from;
  let cursor = null;
  let failures = 0;
  $("tail").replaceChildren();
  while (!control.signal.aborted) {
    try {
      const query = new URLSearchParams({ offset, live: "sse" });
      if (cursor) query.set("cursor", cursor);
      const answer = await ask(`${target(mine.path)}?${query}`, { signal: control.signal });
      if (!answer.ok) {
        state("live", "bad", await complaint(answer));
        // Retry only errors that may pass.
        if (answer.status < 500 && answer.status !== 429) return;
        throw new Error("again");
      }
      state("live", "good", "live");
      const base64 = answer.headers.get("Stream-SSE-Data-Encoding") === "base64";
      for await (const event of events(answer.body)) {
        if (control.signal.aborted) return;
        failures = 0;
        if (event.type === "data") {
          show(event.data, base64, mine.json);
        } else if (event.type === "control") {
          const told = JSON.parse(event.data);
          offset = told.streamNextOffset;
          cursor = told.streamCursor || cursor;
          mine.offset = offset;
          mine.size = Number(offset.split("_")[1]) || 0;
          facts();
          if (told.streamClosed) {
            state("live", "", "closed");
            closed(true);
            return;
          }
        }
      }
    } catch (error) {
      if (control.signal.aborted) return;
      const pause = PAUSES[Math.min(failures++, PAUSES.length - 1)];
      state("live", "warn", "the server does not respond; reconnecting");
      await new Promise((resume) => setTimeout(resume, pause));
    }
  }
}

// Parser of server-sent events (HTML standard): EventSource cannot send a token.
async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  let type = "message";
  let data = [];
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      rest += value;
      // A CR at the end may be the first half of a CRLF.
      const lines = rest.split(/\r\n|\n|\r(?!$)/);
      rest = lines.pop();
      for (const line of lines) {
        if (line === "") {
          if (data.length) yield { type, data: data.join("\n") };
          type = "message";
          data = [];
          continue;
        }
        const colon = line.indexOf(":");
        const field = colon < 0 ? line : line.slice(0, colon);
        const text = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
        if (field === "event") type = text;
        else if (field === "data") data.push(text);
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

function show(data, base64, json) {
  if (json) {
    for (const message of messages(data).slice(-ENTRIES)) entry(message);
  } else if (base64) {
    const raw = atob(data.replaceAll("\n", ""));
    const shown = raw.slice(0, 256);
    const bytes = Array.from(shown, (one) => one.charCodeAt(0).toString(16).padStart(2, "0"));
    entry(`${bytes.join(" ")}${raw.length > shown.length ? " …" : ""}  (${size(raw.length)})`, "bytes");
  } else {
    entry(data);
  }
}

// The messages of a JSON array as text: JSON.parse would round large numbers.
function messages(text) {
  const found = [];
  let depth = 0;
  let start = 1;
  let quoted = false;
  for (let at = 0; at < text.length; at++) {
    const one = text[at];
    if (quoted) {
      if (one === "\\") at++;
      else if (one === '"') quoted = false;
    } else if (one === '"') quoted = true;
    else if (one === "[" || one === "{") depth++;
    else if (one === "]" || one === "}") depth--;
    if (quoted || !((one === "," && depth === 1) || depth === 0)) continue;
    const message = text.slice(start, at).trim();
    if (message) found.push(message);
    start = at + 1;
  }
  return found;
}

const clock = new Intl.DateTimeFormat([], { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });

function entry(text, kind = "") {
  const place = $("tail");
  const row = element("div", undefined, `entry ${kind}`);
  const time = element("time", clock.format(new Date()));
  const cut = text.length > LONGEST;
  row.append(time, element("span", cut ? `${text.slice(0, LONGEST)} … (${text.length} characters)` : text));
  place.append(row);
  while (place.childElementCount > ENTRIES) place.firstElementChild.remove();
  if ($("follow").checked) place.scrollTop = place.scrollHeight;
}

// -- writing ---------------------------------------------------------------------------

$("append-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const mine = chosen;
  const text = $("body").value;
  if (!mine || !text) return;
  $("append").disabled = true;
  try {
    await asked(target(mine.path), { method: "POST", headers: { "Content-Type": mine.type }, body: text });
    if (chosen === mine) $("body").value = "";
  } catch (error) {
    say(because(error));
  }
  if (chosen === mine) {
    $("append").disabled = $("body").disabled;
    $("body").focus();
  }
});

$("body").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("append-form").requestSubmit();
  }
});

function sure(text, yes) {
  $("sure-text").textContent = text;
  $("sure-yes").textContent = yes;
  const dialog = $("sure-dialog");
  dialog.returnValue = "no";
  dialog.showModal();
  return new Promise((answer) =>
    dialog.addEventListener("close", () => answer(dialog.returnValue === "yes"), { once: true }),
  );
}

$("close-stream").addEventListener("click", async () => {
  const { path } = chosen;
  if (!(await sure(`Close ${path}? It takes no more appends and stays readable.`, "Close"))) return;
  try {
    await asked(target(path), { method: "POST", headers: { "Stream-Closed": "true" } });
    list();
  } catch (error) {
    say(because(error));
  }
});

$("delete-stream").addEventListener("click", async () => {
  const { path } = chosen;
  if (!(await sure(`Delete ${path} and everything in it? This cannot be undone.`, "Delete"))) return;
  try {
    await asked(target(path), { method: "DELETE" });
    go(null);
    list();
    say(`${path} is deleted.`, true);
  } catch (error) {
    say(because(error));
  }
});

$("new").addEventListener("click", () => {
  $("new-error").textContent = "";
  $("new-name").value = $("prefix").value;
  $("new-dialog").showModal();
});
$("new-cancel").addEventListener("click", () => $("new-dialog").close());
$("new-form").addEventListener("submit", async (event) => {
  event.preventDefault();
  const name = $("new-name").value;
  const headers = {};
  if ($("new-type").value) headers["Content-Type"] = $("new-type").value;
  if ($("new-ttl").value) headers["Stream-TTL"] = $("new-ttl").value;
  try {
    const answer = await asked(target(name), { method: "PUT", headers });
    $("new-dialog").close();
    if (answer.status === 200) say(`${name} existed already.`, true);
    if (!name.startsWith($("prefix").value)) $("prefix").value = "";
    go(name);
    $("body").focus();
    list();
  } catch (error) {
    $("new-error").textContent = because(error);
  }
});

// -- the server ------------------------------------------------------------------------

async function health() {
  try {
    const answer = await ask("/-/ready");
    if (answer.ok) state("health", "good", "ready");
    else if (answer.status === 503) state("health", "bad", "not ready");
    else state("health", "good", "responds");
  } catch {
    state("health", "bad", "does not respond");
  }
}

async function numbers() {
  let text;
  try {
    const answer = await ask("/-/metrics");
    if (!answer.ok) throw new Error();
    text = await answer.text();
  } catch {
    $("numbers-pane").hidden = true;
    before = null;
    return;
  }
  const now = { time: performance.now(), values: new Map() };
  const help = new Map();
  for (const line of text.split("\n")) {
    const told = /^# HELP durable_streams_(\w+) (.*)/.exec(line);
    if (told) help.set(told[1], told[2]);
    const sample = /^durable_streams_(\w+)(?:\{.*\})? (\S+)/.exec(line);
    if (!sample || /_(bucket|created|info)$/.test(sample[1])) continue;
    // Sum over all labels: totals matter here, not results.
    now.values.set(sample[1], (now.values.get(sample[1]) || 0) + Number(sample[2]));
  }
  // Metrics of the process come last.
  const names = [...now.values.keys()].filter((name) => !UNSHOWN.test(name));
  names.sort((a, b) => a.startsWith("process_") - b.startsWith("process_"));
  const rows = names.map((name) => numbered(name, now, help.get(name.replace(/_count$/, "")) || help.get(name)));
  before = now;
  $("numbers").replaceChildren(...rows);
  $("numbers-pane").hidden = rows.length === 0;
}

const UNSHOWN = /_sum$|^process_(virtual_memory_bytes|max_fds)$|^lmdb_free_bytes$/;

const milliseconds = (seconds) =>
  `${(seconds * 1000).toLocaleString("en", { maximumFractionDigits: seconds < 0.01 ? 2 : 0 })} ms`;

// One metric and its rate.
function numbered(name, now, help) {
  const value = now.values.get(name);
  const since = (other) => now.values.get(other) - ((before && before.values.get(other)) || 0);
  const rate = before && /_(total|count)$/.test(name) ? (since(name) * 1000) / (now.time - before.time) : 0;
  const bytes = /_bytes(_total)?$/.test(name);
  const write = (number) => (bytes ? size(Math.round(number)) : number.toLocaleString("en", { maximumFractionDigits: 1 }));
  let label = name.replace(/_total$/, "").replace(/(_bytes|_seconds)?(_count)?$/, "");
  let shown = write(value);
  let speed = rate > 0 ? `${write(rate)}/s` : "";
  const sum = name.replace(/_count$/, "_sum");
  if (sum !== name && now.values.has(sum)) {
    // Since the last update, or in total if nothing happened since.
    const mean = since(name) > 0 ? since(sum) / since(name) : value > 0 ? now.values.get(sum) / value : 0;
    shown = name.endsWith("_seconds_count") ? milliseconds(mean) : write(mean);
    label += ", mean";
  } else if (name === "process_start_time_seconds") {
    const minutes = Math.floor((Date.now() / 1000 - value) / 60);
    shown = minutes < 120 ? `${minutes} min` : minutes < 2880 ? `${Math.floor(minutes / 60)} h` : `${Math.floor(minutes / 1440)} d`;
    label = "up for";
  } else if (name === "process_cpu_seconds_total") {
    shown = before ? `${Math.round(rate * 100)} %` : "…";
    speed = "";
  }
  const row = element("div");
  row.title = help || name;
  row.append(element("dt", label.replace(/^process_/, "").replaceAll("_", " ")), element("dd", shown));
  if (speed) row.append(element("dd", speed, "rate"));
  return row;
}

function watch() {
  if (document.hidden) return;
  health();
  numbers();
}

// -- start ----------------------------------------------------------------------------

$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  // The token is kept in memory only.
  token = $("token").value.trim();
  list();
  watch();
  open(named());
});
$("filter-form").addEventListener("submit", (event) => {
  event.preventDefault();
  list();
});
let typed;
$("prefix").addEventListener("input", () => {
  clearTimeout(typed);
  typed = setTimeout(list, 150);
});
$("prefix").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown") return;
  const first = $("streams").querySelector("button");
  if (first) first.focus();
  event.preventDefault();
});
$("refresh").addEventListener("click", () => list());
$("more").addEventListener("click", () => list(true));
$("from").addEventListener("change", () => follow($("from").value));
$("clear").addEventListener("click", () => $("tail").replaceChildren());
window.addEventListener("hashchange", () => open(named()));
document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey) return;
  if (/^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return;
  if (document.querySelector("dialog[open]")) return;
  event.preventDefault();
  $("prefix").focus();
});
document.addEventListener("visibilitychange", watch);

setInterval(watch, NUMBERS_EVERY);
watch();
list().then(() => open(named()));
