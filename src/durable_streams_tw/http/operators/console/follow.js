// Following of streams: the leading tab watches the streams of all tabs with one long-poll.

import { getJSON } from "./api.js";
import { wait } from "./dom.js";
import * as tabs from "./tabs.js";

const PAUSE = 100; // milliseconds between two requests: bursts of appends share one
const RETRIES = [500, 1000, 2000, 5000, 10000];
const WANTED_FOR = 25000; // a tab repeats its wish until then
const MOST = 100; // streams that one request may watch

let wanted = null; // the stream of this tab
let listener = null;
// In the leading tab: the stream of each tab, the known states, and the request.
const wants = new Map();
const states = new Map();
let polling = null;

// Call a function with { state } after each change of a stream, state being null while there is
// none, and with { problem } while the server does not respond. Null follows no stream.
export function follow(path, call) {
  wanted = path;
  listener = call;
  wish();
}

function wish() {
  tabs.share("want", wanted);
}

tabs.on("want", (path, sender) => {
  if (polling === null) return;
  const before = watched().join("\n");
  wants.set(sender, { path, at: Date.now() });
  if (states.has(path)) tabs.share("state", [path, states.get(path)]);
  if (watched().join("\n") !== before) polling.abort();
});
tabs.on("lead", () => tabs.post("want", wanted));
tabs.on("state", ([path, state]) => path === wanted && listener({ state }));
tabs.on("down", (problem) => wanted !== null && listener({ problem }));
tabs.onJoin(wish);
setInterval(() => document.hidden || wish(), WANTED_FOR / 3);

function watched() {
  const now = Date.now();
  for (const [tab, { at }] of wants) if (now - at > WANTED_FOR) wants.delete(tab);
  const paths = new Set([...wants.values()].map((want) => want.path));
  paths.delete(null);
  return [...paths].sort().slice(0, MOST);
}

const versionOf = (path) => (states.get(path) || { version: "" }).version;

tabs.whileLeading(async (signal) => {
  wants.clear();
  states.clear();
  wants.set(tabs.me, { path: wanted, at: Date.now() });
  tabs.post("lead");
  let failures = 0;
  while (!signal.aborted) {
    const poll = (polling = new AbortController());
    signal.addEventListener("abort", () => poll.abort(), { signal: poll.signal });
    const paths = watched();
    try {
      if (paths.length) await watch(paths, poll.signal, failures > 0);
      else await wait(1000, poll.signal);
      failures = 0;
      await wait(PAUSE, signal);
    } catch (error) {
      if (error.name === "AbortError") continue;
      tabs.share("down", error.message);
      await wait(RETRIES[Math.min(failures++, RETRIES.length - 1)], poll.signal);
    } finally {
      poll.abort();
    }
  }
  polling = null;
});

async function watch(paths, signal, failed) {
  // After a failure, the first response comes at once and shows that the server is back.
  const query = paths.flatMap((path) => [
    ["stream", path],
    ["seen", failed || !states.has(path) ? "?" : versionOf(path)],
  ]);
  const found = (await getJSON("/-/changes", query, { signal })).streams;
  paths.forEach((path, index) => {
    const state = found[index];
    const changed = failed || !states.has(path) || versionOf(path) !== (state ? state.version : "");
    states.set(path, state);
    if (changed) tabs.share("state", [path, state]);
  });
}
