// Loading, fetching and unloading a model: the question before it, with what has to be chosen. What the server refuses
// is read in the dialog, what it took on at the foot of the window.

import { byId, h, icon } from "../dom.js";
import { bytes } from "../documents/words.js";
import * as calls from "./calls.js";
import { formatOf, nameFrom, poolsFor, poolsWith } from "./fitting.js";

const NAME = "[a-z0-9][a-z0-9._\\-]{0,63}";

export class ModelDialog {
  /** `changed()` when something was done. */
  constructor(board, changed) {
    this.board = board;
    this.changed = changed;
    this.dialog = byId("model-dialog");
  }

  load(model) {
    const { name } = model;
    const pool = poolField(poolsFor(model, this.board));
    const size = model.size_bytes ? `, ${bytes(model.size_bytes)}` : "";
    const whole = `It is fetched first${size}. `;
    const fetched = { AVAILABLE: whole, FAILED: whole, PARTIAL: "The rest of it is fetched first. " }[model.state] ?? "";
    this.#open({
      title: `Load ${name}`,
      fields: [pool.field],
      words: () => `${fetched}The devices of ${pool.value} load it beside what they serve, then go over to it; what they are writing is finished.`,
      yes: "Load",
      send: () => calls.load(name, pool.value),
      told: (answer) => `${answer.note}.`,
    });
  }

  unload(model) {
    const { name } = model;
    const pool = poolField(poolsWith(model, this.board));
    this.#open({
      title: `Unload ${name}`,
      fields: [pool.field],
      words: () => `Devices of ${pool.value} that serve it go back to the pool’s own model. It stays on the disk.`,
      yes: "Unload",
      send: () => calls.unload(name, pool.value),
      told: ({ nodes }) => (nodes.length ? `${name} leaves ${nodes.join(", ")}.` : `No device of ${pool.value} holds ${name}.`),
    });
  }

  /** A model of an address; its name is that of the file, until somebody gives it another. */
  fetch(name = "") {
    const source = h("input", { id: "model-source", type: "url", required: true, maxLength: 2000, autocomplete: "off", spellcheck: false, placeholder: "https://huggingface.co/…/model.gguf" });
    const called = h("input", { id: "model-called", type: "text", required: true, pattern: NAME, maxLength: 64, autocomplete: "off", spellcheck: false, value: name });
    const sha256 = h("input", { id: "model-sha256", type: "text", pattern: "[0-9a-f]{64}", maxLength: 64, autocomplete: "off", spellcheck: false });
    const pool = poolField(poolsFor({ format: "gguf" }, this.board));
    let own = Boolean(name);
    called.addEventListener("input", () => (own = called.value !== ""));
    source.addEventListener("input", () => {
      if (!own) called.value = nameFrom(source.value);
      pool.offer(poolsFor({ format: formatOf(source.value) }, this.board));
    });
    this.#open({
      title: "Fetch a model",
      fields: [
        field("Address", source, "Of a .gguf or .tflite file, on a host of REEF_MODEL_URL_HOSTS."),
        field("Name", called, "Lower-case letters, digits, dots, _ and -."),
        field("SHA-256", sha256, "If you know it: the file is checked against it."),
        pool.field,
      ],
      words: () => (pool.value ? `When it is here and checked, the devices of ${pool.value} load it and go over to it.` : "No pool with a device can take a model of this format."),
      yes: "Fetch and load",
      send: () => calls.load(called.value, pool.value, { source: source.value, sha256: sha256.value }),
      told: (answer) => `${answer.note}.`,
    });
  }

  #open({ title, fields, words, yes, send, told }) {
    const text = h("p", { "aria-live": "polite" }, words());
    const error = h("p", { class: "field-error", role: "alert", hidden: true });
    const go = h("button", { type: "submit", class: "button primary" }, yes);
    const form = h("form", {}, h("div", { class: "model-fields" }, fields), text, error, h("div", { class: "dialog-actions" }, h("button", { type: "button", class: "button", onclick: () => this.dialog.close() }, "Cancel"), go));
    form.addEventListener("input", () => (text.textContent = words()));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      go.disabled = true;
      error.hidden = true;
      try {
        const answer = await send();
        this.dialog.close();
        this.board.answer(told(answer));
        this.changed();
      } catch (problem) {
        error.textContent = problem.message;
        error.hidden = false;
        go.disabled = false;
      }
    });
    this.dialog.replaceChildren(h("div", { class: "dialog-head" }, h("h2", { id: "model-dialog-title" }, title), h("button", { type: "button", class: "icon-button", "aria-label": "Close", onclick: () => this.dialog.close() }, icon("close"))), form);
    this.dialog.showModal();
    form.querySelector("input, select").focus();
  }
}

function field(label, control, hint = "") {
  const hintId = `${control.id}-hint`;
  if (hint) control.setAttribute("aria-describedby", hintId);
  return h("div", { class: "field" }, h("label", { for: control.id }, label), control, hint && h("p", { class: "hint", id: hintId }, hint));
}

/** A choice of pools; where it may be one only, it says which. */
function poolField(names) {
  const select = h("select", { id: "model-pool", required: true });
  const offer = (pools) => {
    const { value } = select;
    select.replaceChildren(...pools.map((name) => h("option", { value: name }, name)));
    if (pools.includes(value)) select.value = value;
  };
  offer(names);
  return {
    field: field("Pool", select),
    offer,
    get value() {
      return select.value;
    },
  };
}
