// Tabs of one browser: one of the visible ones sends the repeated requests for all.
//
// HTTP/1.1 allows six connections to a server for all tabs together, so no tab may hold one of its
// own. The tab with a Web Lock leads: it runs the tasks of `whileLeading` and shares the results over
// a BroadcastChannel. Hidden tabs leave, and hold no connection. Without Web Locks, which browsers
// have on HTTPS and localhost only, each visible tab works for itself.

import { base, getToken } from "./api.js";

export const me = Math.random().toString(36).slice(2);

const listeners = new Map();
const tasks = [];
const joins = [];
let channel = null;
let joined = null;

// Call a function with the value and the sender of each message of a kind.
export const on = (kind, listener) => listeners.set(kind, listener);

// Run a function with an AbortSignal while this tab leads.
export const whileLeading = (task) => tasks.push(task);

// Call a function whenever this tab becomes visible.
export const onJoin = (listener) => joins.push(listener);

// Send a message to the other visible tabs.
export function post(kind, value) {
  if (channel) channel.postMessage([kind, value, me]);
}

// Send a message to all visible tabs, this one included.
export function share(kind, value) {
  post(kind, value);
  listeners.get(kind)(value, me);
}

async function channelName() {
  // Tabs with other tokens may see other streams. Without crypto.subtle there are no locks either.
  const bytes = new TextEncoder().encode(getToken());
  const digest = crypto.subtle ? new Uint8Array(await crypto.subtle.digest("SHA-256", bytes)) : [];
  return `durable-streams ${base} ${Array.from(digest).join(".")}`;
}

// Leave the other tabs: stop the tasks, close the connections.
export function leave() {
  if (!joined) return;
  joined.abort();
  joined = null;
  if (channel) channel.close();
  channel = null;
}

// Join the other tabs, unless this tab is hidden. Call it again after a change of the token.
export async function join() {
  leave();
  if (document.hidden) return;
  const controller = (joined = new AbortController());
  const { signal } = controller;
  const name = await channelName();
  if (signal.aborted) return;
  const lead = () => Promise.all(tasks.map((task) => task(signal)));
  if (navigator.locks) {
    channel = new BroadcastChannel(name);
    channel.onmessage = ({ data: [kind, value, sender] }) => listeners.get(kind)(value, sender);
    navigator.locks.request(name, { signal }, lead).catch((error) => {
      if (error.name !== "AbortError") throw error;
    });
  } else {
    lead();
  }
  for (const listener of joins) listener();
}

document.addEventListener("visibilitychange", () => (document.hidden ? leave() : join()));
window.addEventListener("pagehide", leave);
window.addEventListener("pageshow", (event) => event.persisted && join());
