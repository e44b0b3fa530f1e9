// The server: its health, pictures of the last minutes, figures and subscriptions.

import { getJSON, request } from "./api.js";
import { chart, draw } from "./charts.js";
import { $, ago, count, counted, duration, element, milliseconds, size, tell, wait } from "./dom.js";
import * as tabs from "./tabs.js";

const EVERY = 3000; // milliseconds between two samples
const KEPT = 100; // samples, which are five minutes

// Metrics that are more than a figure, by their names without the prefix. A name may have labels.
const APPENDS = 'commands_total{operation="append",result="done"}';
const BYTES = 'body_bytes_total{result="done"}';
const SUBSCRIBERS = "live_subscribers";
const COMMIT_SUM = "commit_seconds_sum";
const COMMIT_COUNT = "commit_seconds_count";
const BUILD = "build_info";
const START = "process_start_time_seconds";
const LMDB = "lmdb_used_bytes";
const NODES = "database_nodes";
const UNSHOWN = /_sum$|_bucket$|_created$|_info$|^process_(virtual_memory_bytes|max_fds)$/;

const PICTURES = [
  ["Appends per second", (now, before) => rate(APPENDS, now, before), count],
  ["Bytes per second", (now, before) => rate(BYTES, now, before), size],
  ["Live readers", (now) => now.values[SUBSCRIBERS] ?? null, count],
  ["Commit latency, mean", commitLatency, milliseconds],
];

// Samples, oldest first, as `parse` returns them. Times are in seconds since the Unix epoch.
let samples = [];

const cards = PICTURES.map(([title]) => {
  const svg = chart("chart");
  const value = element("dd");
  const most = element("p", { className: "most" });
  $("pictures").append(element("div", { className: "card" }, element("dl", {}, element("dt", { text: title }), value), svg, most));
  return { svg, value, most };
});

// -- samples ---------------------------------------------------------------------------

// Parse the text format of Prometheus: the sum of each metric, and each sample with its labels.
export function parse(text) {
  const values = {};
  const labels = {};
  const workers = new Set();
  const help = {};
  for (const line of text.split("\n")) {
    const told = /^# HELP durable_streams_(\w+) (.*)/.exec(line);
    if (told) help[told[1]] = told[2];
    const sample = /^durable_streams_(\w+)(\{.*\})? (\S+)/.exec(line);
    if (!sample || sample[1].endsWith("_bucket")) continue;
    const [, name, selector, value] = sample;
    values[name] = (values[name] || 0) + Number(value);
    if (!selector) continue;
    values[name + selector] = Number(value);
    // Metrics of a process have this label if the server has several.
    const worker = /worker="([^"]*)"/.exec(selector);
    if (worker) workers.add(worker[1]);
    if (name.endsWith("_info"))
      labels[name] = Object.fromEntries([...selector.matchAll(/(\w+)="([^"]*)"/g)].map(([, key, text]) => [key, text]));
  }
  // Start times are no sums: the server runs as long as its oldest process.
  const starts = Object.keys(values).filter((name) => name.startsWith(`${START}{`) || name === START);
  const start = Math.min(...starts.map((name) => values[name]));
  return { at: Date.now() / 1000, values, labels, help, start, workers: [...workers].sort() };
}

function rate(name, now, before) {
  if (!before || !(name in now.values)) return null;
  const change = now.values[name] - (before.values[name] || 0);
  // A restarted server counts from zero.
  return change < 0 ? null : change / (now.at - before.at);
}

function commitLatency(now, before) {
  const commits = rate(COMMIT_COUNT, now, before);
  return commits ? rate(COMMIT_SUM, now, before) / commits : null;
}

let leading = false;
tabs.whileLeading(async (signal) => {
  leading = true;
  signal.addEventListener("abort", () => (leading = false));
  while (!signal.aborted) {
    try {
      const response = await request("/-/metrics", { signal });
      tabs.share("sample", parse(await response.text()));
    } catch (error) {
      if (error.name === "AbortError") return;
      tabs.share("sample", { problem: error.message });
    }
    await wait(EVERY, signal);
  }
});
tabs.whileLeading(async (signal) => {
  while (!signal.aborted) {
    try {
      await request("/-/ready", { signal });
      tabs.share("health", "good ready");
    } catch (error) {
      if (error.name === "AbortError") return;
      tabs.share("health", error.status === 503 ? "bad not ready" : error.status ? "good responds" : "bad does not respond");
    }
    await wait(EVERY, signal);
  }
});

tabs.on("health", (told) => {
  const [kind, ...words] = told.split(" ");
  $("health").className = `health ${kind}`;
  tell("health-text", words.join(" "));
});
tabs.on("sample", (sample) => {
  tell("server-error", sample.problem ? `No metrics. ${sample.problem}` : "");
  if (sample.problem) return;
  samples.push(sample);
  samples = samples.slice(-KEPT);
  show();
});
// A tab that joins gets the samples of the leading one.
tabs.on("samples?", (_, sender) => leading && tabs.post("samples", [sender, samples]));
tabs.on("samples", ([receiver, found]) => {
  if (receiver !== tabs.me || found.length < samples.length) return;
  samples = found;
  show();
});
tabs.onJoin(() => tabs.post("samples?"));

// -- display ---------------------------------------------------------------------------

function show() {
  if (!samples.length) return;
  const now = samples[samples.length - 1];
  const before = samples[samples.length - 2];
  PICTURES.forEach(([title, read, write], index) => {
    const values = samples.map((sample, at) => read(sample, samples[at - 1]));
    const known = values.filter((value) => value !== null);
    const card = cards[index];
    const last = values[values.length - 1];
    card.value.textContent = last === null ? "–" : write(last);
    card.most.textContent = known.length ? `peak ${write(Math.max(...known))} in ${duration(now.at - samples[0].at)}` : "";
    draw(card.svg, values, `${title}: now ${card.value.textContent}, ${card.most.textContent}`);
  });
  about(now);
  figures(now, before);
}

// Version, storage, workers and everything else that an info metric tells.
function about(now) {
  const rows = [];
  // A store in memory has no commits, and only one on disk has figures of LMDB.
  const durable = COMMIT_COUNT in now.values;
  const nodes = now.values[NODES];
  const database = nodes ? `PostgreSQL, ${nodes} ${nodes === 1 ? "node" : "nodes"}` : "PostgreSQL";
  rows.push(["Storage", LMDB in now.values ? "LMDB, on disk" : durable ? database : "memory: lost at exit"]);
  for (const [name, labels] of Object.entries(now.labels))
    for (const [key, value] of Object.entries(labels)) rows.push([name === BUILD ? key : `${name} ${key}`, value]);
  rows.push(["Processes", now.workers.length ? `${now.workers.length}: ${now.workers.join(", ")}` : "1"]);
  if (Number.isFinite(now.start)) rows.push(["Up for", duration(now.at - now.start)]);
  define("about", rows);
}

function define(id, rows) {
  $(id).replaceChildren(
    ...rows.map(([name, value, title]) =>
      element("div", { title: title || "" }, element("dt", { text: name.replaceAll("_", " ") }), element("dd", { text: value })),
    ),
  );
}

// Every metric, with its rate if it is a counter; histograms as a mean.
function figures(now, before) {
  const rows = [];
  for (const name of Object.keys(now.values).sort()) {
    if (name.includes("{") || UNSHOWN.test(name)) continue;
    const value = now.values[name];
    const isBytes = /_bytes(_total)?$/.test(name);
    const write = (number) => (isBytes ? size(number) : count(number));
    const plain = name.replace(/_total$/, "").replace(/_count$/, "");
    const help = now.help[plain] || now.help[name];
    const speed = /_(total|count)$/.test(name) ? rate(name, now, before) : null;
    if (name.endsWith("_count")) {
      const mean = value ? now.values[`${plain}_sum`] / value : 0;
      rows.push([`${plain}, mean`, plain.endsWith("_seconds") ? milliseconds(mean) : count(mean), help]);
    } else if (!/_seconds$/.test(name)) rows.push([plain, write(value) + (speed ? ` (${write(speed)}/s)` : ""), help]);
  }
  define("figures", rows);
}

// -- subscriptions ---------------------------------------------------------------------

let asking = null;

async function subscriptions() {
  clearTimeout(asking);
  if (document.hidden) return;
  if (document.body.dataset.view !== "stream") {
    try {
      const { subscriptions: found, after } = await getJSON("/-/subscriptions", { limit: 200 });
      tell("subscriptions-error", "");
      tell("subscriptions-note", found.length ? (after === null ? "" : "The first 200 are shown.") : "There are no subscriptions.");
      $("subscriptions").hidden = !found.length;
      $("subscriptions-rows").replaceChildren(...found.map(row));
    } catch (error) {
      tell("subscriptions-error", error.message);
    }
  }
  asking = setTimeout(subscriptions, EVERY);
}

function row(subscription) {
  const { id, type, pattern, explicit_streams: explicit, phase, target } = subscription;
  const streams = [pattern, explicit ? `${explicit} by name` : null].filter(Boolean).join(", ");
  const pending = `${subscription.pending_complete ? "" : "at least "}${size(subscription.pending_bytes)} in ${counted(subscription.pending_streams, "stream")}`;
  const due = subscription.lease_until || subscription.next_attempt_at;
  const seconds = due ? (Date.parse(due) - Date.now()) / 1000 : 0;
  const when = due ? `${subscription.lease_until ? "lease ends" : "next attempt"} ${seconds > 0 ? `in ${duration(seconds)}` : "now"}` : "";
  const error = [subscription.last_error, subscription.failures ? counted(subscription.failures, "failure") : null];
  const cells = [
    [`${id}`, `${type}: ${target}`],
    [streams],
    [phase, subscription.worker],
    [subscription.pending_streams ? pending : "–"],
    [error.filter(Boolean).join(", ") || "–", when],
  ];
  return element(
    "tr",
    { className: phase },
    ...cells.map(([text, more], index) =>
      element(index ? "td" : "th", index ? {} : { scope: "row" }, text, more ? element("small", { text: more }) : ""),
    ),
  );
}

export { subscriptions as refresh };
document.addEventListener("visibilitychange", subscriptions);
