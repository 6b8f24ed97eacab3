// Who documents are for: everybody, or some personas only.

import { avatar, byId, h } from "../dom.js";
import { SHARED } from "./board.js";

/** Resolves to the stores that were chosen, or null. */
export function chooseStores(board, { title, stores, yes }) {
  const dialog = byId("stores-dialog");
  const shared = stores.includes(SHARED);
  const radio = (value, words, hint, checked) =>
    h("label", { class: "choice" }, h("input", { type: "radio", name: "who", value, checked }), h("span", {}, h("strong", {}, words), h("span", { class: "hint" }, hint)));
  const boxes = board.personas.map((persona) =>
    h(
      "label",
      { class: "choice persona" },
      h("input", { type: "checkbox", name: "persona", value: persona.id, checked: !shared && stores.includes(persona.id) }),
      avatar(persona, "small"),
      h("span", {}, persona.name),
    ),
  );
  const error = h("p", { class: "field-error", role: "alert", hidden: true }, "Choose at least one persona, or share with all.");
  const some = radio("some", "Only these personas", "No other persona finds anything in them.", !shared);
  const form = h(
    "form",
    { method: "dialog", noValidate: true },
    h("h2", { id: "stores-title" }, title),
    h("div", { class: "choices", role: "group", "aria-labelledby": "stores-title" }, radio(SHARED, "Shared with all", "Every persona reads them, also those you make later.", shared), some, h("div", { class: "choice-personas" }, boxes)),
    error,
    h("div", { class: "dialog-actions" }, h("button", { type: "button", class: "button", onclick: () => dialog.close("cancel") }, "Cancel"), h("button", { type: "submit", class: "button primary", value: "save" }, yes)),
  );
  // a tick at a persona means: these only
  form.addEventListener("change", (event) => {
    if (event.target.name === "persona" && event.target.checked) some.querySelector("input").checked = true;
    error.hidden = true;
  });
  const chosen = () => {
    const data = new FormData(form);
    return data.get("who") === SHARED ? [SHARED] : data.getAll("persona");
  };
  form.addEventListener("submit", (event) => {
    if (chosen().length) return;
    event.preventDefault();
    error.hidden = false;
  });
  dialog.replaceChildren(form);
  dialog.returnValue = "cancel";
  dialog.showModal();
  form.querySelector("input[name=who]:checked").focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "save" ? chosen() : null), { once: true });
  });
}
