// Keys that work anywhere on the page, and the dialog that lists them. Single letters can be switched off, because
// speech input types them by accident.

import { byId } from "../dom.js";
import { keepPreference, preference } from "../keep.js";

export function shortcuts({ store, sidebar, composer, newChat }) {
  const help = byId("help-dialog");
  const enabled = byId("shortcuts-enabled");
  enabled.checked = preference("shortcuts", true);
  enabled.addEventListener("change", () => keepPreference("shortcuts", enabled.checked));
  byId("help-open").addEventListener("click", () => help.showModal());

  const letters = {
    "/": () => sidebar.focusSearch(),
    "n": () => newChat(),
    "m": () => composer.field.focus(),
    "?": () => help.showModal(),
  };

  document.addEventListener("keydown", (event) => {
    if (event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (event.key === "Escape") {
      if (sidebar.isOpen) sidebar.close();
      else if (!composer.cancelEdit()) store.stop();
      return;
    }
    if (!enabled.checked || event.ctrlKey || event.metaKey || event.altKey || typing(event.target)) return;
    const action = letters[event.key];
    if (!action) return;
    event.preventDefault();
    action();
  });
}

function typing(element) {
  return element.matches("input, textarea, select, [contenteditable]");
}
