// Asks for the API key where the service wants one.

import { key, onKeyNeeded } from "./api.js";
import { byId, show } from "./dom.js";

export function setUpKey(onForget) {
  onKeyNeeded(ask);
  byId("forget-key").addEventListener("click", () => {
    key.forget();
    show(byId("forget-key"), false, byId("generate"));
    onForget();
  });
  show(byId("forget-key"), key.get() !== null);
}

/** Resolves with a key in place; fails with the problem where none is given. */
function ask(problem) {
  const dialog = byId("key-dialog");
  byId("key-reason").textContent = key.get() ? problem.message : "This service asks for a key.";
  key.forget();
  byId("key").value = "";
  dialog.showModal();
  return new Promise((resolve, reject) => {
    byId("key-form").onsubmit = (event) => {
      event.preventDefault();
      key.set(byId("key").value.trim());
      byId("key").value = ""; // it stays in no input
      show(byId("forget-key"), true);
      dialog.onclose = null;
      dialog.close();
      resolve();
    };
    byId("key-cancel").onclick = () => dialog.close();
    dialog.onclose = () => reject(problem);
  });
}
