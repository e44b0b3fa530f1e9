// Dialogs: confirmation, new streams and forks. An error stays in the dialog that caused it.

import { pathOf, request } from "./api.js";
import { $, tell } from "./dom.js";

// Show a dialog whose form runs an action. Return its result, or null if the user cancels.
function ask(id, action) {
  const dialog = $(`${id}-dialog`);
  const form = $(`${id}-form`);
  tell(`${id}-error`, "");
  dialog.showModal();
  return new Promise((resolve) => {
    const controller = new AbortController();
    const { signal } = controller;
    let result = null;
    form.addEventListener(
      "submit",
      async (event) => {
        event.preventDefault();
        tell(`${id}-error`, "");
        $(`${id}-yes`).disabled = true;
        try {
          result = await action();
          dialog.close();
        } catch (error) {
          tell(`${id}-error`, error.message);
        }
        $(`${id}-yes`).disabled = false;
      },
      { signal },
    );
    $(`${id}-cancel`).addEventListener("click", () => dialog.close(), { signal });
    dialog.addEventListener("close", () => (controller.abort(), resolve(result)), { signal });
  });
}

// Ask for confirmation, then run an action. Return true if it succeeded.
export async function confirmed(text, yes, action) {
  $("sure-text").textContent = text;
  $("sure-yes").textContent = yes;
  return (await ask("sure", async () => (await action(), true))) === true;
}

// Create a stream, or a fork of `fork`: { source, offset }. Return its name, null if cancelled.
export async function creation({ title, name, fork = null }) {
  $("new-title").textContent = title;
  $("new-name").value = name;
  $("new-offset").value = fork ? fork.offset : "";
  $("new-offset-label").hidden = !fork;
  $("new-type-label").hidden = Boolean(fork);
  return ask("new", async () => {
    const headers = {};
    const path = $("new-name").value;
    if (fork) {
      headers["Stream-Forked-From"] = fork.source;
      if ($("new-offset").value) headers["Stream-Fork-Offset"] = $("new-offset").value;
    } else if ($("new-type").value) headers["Content-Type"] = $("new-type").value;
    if ($("new-ttl").value) headers["Stream-TTL"] = $("new-ttl").value;
    await request(pathOf(path), { method: "PUT", headers });
    return path;
  });
}
