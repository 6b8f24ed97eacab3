// One model: what it is, its state, where it is loaded, and buttons for what can be done with it now. What is wrong with
// it stands in a row of its own, over the whole width.

import { byId, h } from "../dom.js";
import { confirm } from "../views/confirm.js";
import { bytes } from "../documents/words.js";
import * as calls from "./calls.js";
import { poolsFor, poolsWith } from "./fitting.js";

const STATES = { READY: "Loaded", CACHED: "On disk", LOADING: "Loading", PARTIAL: "Begun", FAILED: "Failed", AVAILABLE: "Can be fetched" };

export class ModelRow {
  /** `changed()` when something was done. */
  constructor(board, dialog, changed) {
    this.board = board;
    this.dialog = dialog;
    this.changed = changed;
    this.name = h("span", { class: "model-name" });
    this.about = h("span", { class: "model-about" });
    this.state = h("span", {});
    this.bar = h("span", { class: "load loading", "aria-hidden": "true" }, h("i", {}));
    this.where = h("td", { role: "cell", class: "where" });
    this.buttons = {
      load: this.#button("Load…", () => this.dialog.load(this.model)),
      again: this.#button("Fetch again…", () => this.dialog.fetch(this.model.name)),
      unload: this.#button("Unload…", () => this.dialog.unload(this.model)),
      pin: this.#button("Pin", () => this.#pin()),
      remove: this.#button("Remove…", () => this.#remove(), "danger"),
    };
    this.element = h(
      "tr",
      { role: "row" },
      h("th", { role: "rowheader", scope: "row" }, this.name, this.about),
      h("td", { role: "cell", class: "model-state" }, this.state, this.bar),
      this.where,
      h("td", { role: "cell", class: "model-tools" }, h("div", {}, Object.values(this.buttons))),
    );
    this.error = h("td", { role: "cell", colSpan: 4 });
    this.errorRow = h("tr", { role: "row", class: "model-error" }, this.error);
  }

  get elements() {
    return this.model.error ? [this.element, this.errorRow] : [this.element];
  }

  #button(words, onclick, kind = "") {
    return h("button", { type: "button", class: `button small ${kind}`, onclick }, words);
  }

  draw(model) {
    this.model = model;
    set(this.name, model.name);
    set(this.about, aboutWords(model));
    set(this.state, stateWords(model));
    set(this.where, model.where.length ? model.where.join(", ") : "–");
    set(this.error, model.error);
    this.where.classList.toggle("nowhere", model.where.length === 0);
    this.element.dataset.state = model.state;
    this.element.classList.toggle("with-error", Boolean(model.error));
    this.bar.hidden = model.state !== "LOADING";
    this.bar.style.setProperty("--share", String(model.progress ?? 0));
    this.#offer(model);
  }

  /** Only what the server would do now. */
  #offer(model) {
    const { load, again, unload, pin, remove } = this.buttons;
    const here = model.used_at !== null && model.used_at !== undefined;
    const begun = model.state === "PARTIAL";
    const lost = model.state === "FAILED" && !here;
    const encoder = model.format === "encoder";
    const known = here || Boolean(model.source) || model.state === "AVAILABLE";
    load.hidden = !known || model.state === "LOADING" || poolsFor(model, this.board).length === 0;
    again.hidden = !(lost || begun) || known;
    unload.hidden = poolsWith(model, this.board).length === 0;
    pin.hidden = !here || encoder;
    set(pin, model.pinned ? "Unpin" : "Pin");
    pin.title = model.pinned ? "It may go when room is needed" : "Keep it on disk, whatever else needs room";
    remove.hidden = !(lost || begun || (here && !encoder && !model.stays));
    for (const button of Object.values(this.buttons)) button.setAttribute("aria-label", `${button.textContent.replace("…", "")} ${model.name}`);
  }

  async #pin() {
    const { name, pinned } = this.model;
    await this.#do(() => calls.pin(name, !pinned), pinned ? `${name} may go when room is needed.` : `${name} stays on the disk, whatever else needs room.`);
  }

  async #remove() {
    const { name } = this.model;
    const text = removalWords(this.model);
    if (!(await confirm({ title: `Remove ${name}?`, text, yes: "Remove" }))) return;
    await this.#do(async () => {
      await calls.removeModel(name);
      byId("model-fetch").focus({ preventScroll: true }); // its row goes, and would take the keyboard with it
    }, `${name} was removed.`);
  }

  async #do(action, told) {
    try {
      await action();
      this.board.answer(told);
    } catch (problem) {
      this.board.trouble(problem);
    }
    this.changed();
  }
}

function removalWords({ state, used_at: here, size_bytes: size, source }) {
  if (state === "PARTIAL") return "What has arrived of it is deleted; the next time it is fetched from its beginning.";
  if (!here) return "Only that it failed is forgotten; there is no file of it.";
  const again = source ? "It can be fetched again." : "It was put here by hand: fetch it again only from where it came.";
  return `Its file is deleted${size ? `, ${bytes(size)}` : ""}. ${again}`;
}

function aboutWords(model) {
  const size = model.size_bytes ? bytes(model.size_bytes) : "";
  return [model.format, model.quantisation, size, model.licence, model.pinned ? "pinned" : ""].filter(Boolean).join(" · ");
}

function stateWords(model) {
  const share = model.state === "LOADING" ? `${Math.round((model.progress ?? 0) * 100)} %` : "";
  return [STATES[model.state] ?? model.state, share, model.note].filter(Boolean).join(" · ");
}

function set(element, words) {
  if (element.textContent !== words) element.textContent = words;
}
