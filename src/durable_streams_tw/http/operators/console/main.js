// Start of the console: which view is shown, and the token.

import { getToken, setToken } from "./api.js";
import { creation } from "./dialogs.js";
import { $, tell } from "./dom.js";
import * as list from "./list.js";
import * as server from "./server.js";
import * as stream from "./stream.js";
import * as tabs from "./tabs.js";

// The fragment is empty for the list, "/server", or the encoded path of a stream, perhaps with
// "?offset=". Encoded paths contain no slash and no question mark.
function goTo(path, offset = null) {
  const hash = path === null ? "" : `#${encodeURIComponent(path)}${offset === null ? "" : `?offset=${offset}`}`;
  if (location.hash === hash) return show();
  if (hash) location.hash = hash;
  else history.pushState(null, "", location.pathname);
  if (!hash) show();
}

function show() {
  const hash = location.hash.slice(1);
  const [encoded, query] = hash.split("?");
  let path = null;
  try {
    if (encoded && encoded !== "/server") path = decodeURIComponent(encoded);
  } catch {
    // The fragment is not one of ours.
  }
  const view = path !== null ? "stream" : encoded === "/server" ? "server" : "list";
  document.body.dataset.view = view;
  document.title = path === null ? "Durable Streams console" : `${path} · Durable Streams`;
  for (const link of document.querySelectorAll(".views a"))
    if (link.dataset.view === view) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  list.mark(path);
  stream.open(path, new URLSearchParams(query).get("offset"));
  server.refresh();
}

stream.setUp(goTo, list.refresh);
list.setUp((path) => {
  goTo(path);
  $("stream-pane").focus();
});

$("new").addEventListener("click", async () => {
  const name = await creation({ title: "New stream", name: $("search").value });
  if (name === null) return;
  goTo(name);
  list.refresh();
  $("body").focus();
});

$("token").value = getToken();
tell("token-state", getToken() ? "set" : "");
$("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  setToken($("token").value.trim());
  tell("token-state", getToken() ? "set" : "");
  $("token-details").open = false;
  tabs.join();
  list.refresh();
  show();
});

window.addEventListener("hashchange", show);
window.addEventListener("popstate", () => location.hash || show());
tabs.join();
show();
