// Models: which there are, in what state, where they are loaded; loading and unloading with a question before it.

import { arrange, byId, h } from "../dom.js";
import { confirm } from "../views/confirm.js";
import { bytes } from "../documents/words.js";
import * as calls from "./calls.js";

const EVERY_MS = 10_000;
const NOT_FOUND = new Set([404, 405, 501]);
const STATES = { READY: "Loaded", CACHED: "On disk", LOADING: "Loading", FAILED: "Failed", AVAILABLE: "Can be fetched" };

export class Models {
  constructor(board) {
    this.board = board;
    this.known = [];
    this.rows = new Map();
    this.note = byId("models-note");
    board.on("model", (event) => this.#heard(event));
    board.on("change", () => this.#draw());
    this.#follow();
  }

  get names() {
    return this.known.map((model) => model.name);
  }

  async #follow() {
    while (!this.none) {
      if (document.visibilityState === "visible") await this.#ask();
      await new Promise((resolve) => setTimeout(resolve, EVERY_MS));
    }
  }

  async #ask() {
    try {
      this.known = await calls.models();
      this.note.textContent = this.known.length ? "" : "There is no model yet.";
    } catch (problem) {
      // no such endpoint: asking again would not bring it
      this.none = NOT_FOUND.has(problem.status);
      this.note.textContent = this.none ? "This reef cannot fetch or load models from here; queues.yaml names the model of each pool." : problem.message;
    }
    this.#draw();
  }

  /** Progress of a model on its way: at once, between two askings. */
  #heard({ name, state, progress = 0, note = "" }) {
    const at = this.known.findIndex((model) => model.name === name);
    if (at < 0 || (state && this.known[at].state !== state)) this.#ask();
    if (at < 0) return;
    this.known = this.known.with(at, { ...this.known[at], state: state || this.known[at].state, progress, note });
    this.#draw();
  }

  #draw() {
    byId("models-table").hidden = !this.known.length;
    for (const name of this.rows.keys()) if (!this.names.includes(name)) this.rows.delete(name);
    arrange(byId("model-rows"), this.known.map((model) => this.#row(model)));
  }

  #row(model) {
    const row = this.rows.get(model.name) ?? new Row(this.board, model, () => this.#ask());
    this.rows.set(model.name, row);
    row.draw(model);
    return row.element;
  }
}

class Row {
  constructor(board, model, changed) {
    this.board = board;
    this.changed = changed;
    this.about = h("span", { class: "model-about" });
    this.state = h("span", {});
    this.bar = h("span", { class: "load loading", "aria-hidden": "true" }, h("i", {}));
    this.where = h("td", { class: "where" });
    this.pool = h("select", { "aria-label": `Pool for ${model.name}` });
    this.load = h("button", { type: "button", class: "button small", onclick: () => this.#load() }, "Load");
    this.unload = h("button", { type: "button", class: "button small", onclick: () => this.#unload() }, "Unload");
    this.load.setAttribute("aria-label", `Load ${model.name}`);
    this.unload.setAttribute("aria-label", `Unload ${model.name}`);
    this.element = h("tr", {}, h("th", { scope: "row" }, h("span", { class: "model-name" }, model.name), this.about), h("td", { class: "model-state" }, this.state, this.bar), this.where, h("td", { class: "model-tools" }, h("div", {}, this.pool, this.load, this.unload)));
  }

  draw(model) {
    this.model = model;
    const about = [model.format, model.quantisation, model.size_bytes ? bytes(model.size_bytes) : "", model.licence].filter(Boolean).join(" · ");
    const words = [STATES[model.state] ?? model.state, model.state === "LOADING" ? `${Math.round((model.progress ?? 0) * 100)} %` : "", model.error || model.note || ""].filter(Boolean).join(" · ");
    const where = model.where.length ? model.where.join(", ") : "–";
    for (const [element, text] of [[this.about, about], [this.state, words], [this.where, where]]) if (element.textContent !== text) element.textContent = text;
    this.element.dataset.state = model.state;
    this.bar.hidden = model.state !== "LOADING";
    this.bar.style.setProperty("--share", String(model.progress ?? 0));
    this.unload.disabled = model.where.length === 0;
    const names = [...this.board.pools.keys()];
    if (this.pool.options.length !== names.length) {
      const { value } = this.pool;
      this.pool.replaceChildren(...names.map((name) => h("option", { value: name }, name)));
      if (names.includes(value)) this.pool.value = value;
    }
  }

  async #load() {
    const { name } = this.model;
    const pool = this.pool.value;
    const fetched = this.model.state === "AVAILABLE" ? `It is fetched first${this.model.size_bytes ? `, ${bytes(this.model.size_bytes)}` : ""}. ` : "";
    const text = `${fetched}The devices of ${pool} load it beside what they serve, then go over to it; what they are writing is finished.`;
    if (await confirm({ title: `Load ${name} in ${pool}?`, text, yes: "Load" })) await this.#do(() => calls.load(name, pool), `${name} is being loaded in ${pool}.`);
  }

  async #unload() {
    const { name } = this.model;
    const pool = this.pool.value;
    const text = `Devices of ${pool} that serve it go back to the pool’s own model. It stays on the disk.`;
    if (await confirm({ title: `Unload ${name} from ${pool}?`, text, yes: "Unload" })) await this.#do(() => calls.unload(name, pool), `${name} is being unloaded from ${pool}.`);
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
