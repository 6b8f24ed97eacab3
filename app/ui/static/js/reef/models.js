// Models: which there are, in what state, where they are loaded, and what can be done with each.

import { arrange, byId } from "../dom.js";
import * as calls from "./calls.js";
import { ModelDialog } from "./model_dialog.js";
import { ModelRow } from "./model_row.js";

const EVERY_MS = 10_000;
const NOT_FOUND = new Set([404, 405, 501]);

export class Models {
  constructor(board) {
    this.board = board;
    this.known = [];
    this.rows = new Map();
    this.note = byId("models-note");
    this.dialog = new ModelDialog(board, () => this.#ask());
    byId("model-fetch").addEventListener("click", () => this.dialog.fetch());
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
    arrange(byId("model-rows"), this.known.flatMap((model) => this.#row(model).elements));
  }

  #row(model) {
    const row = this.rows.get(model.name) ?? new ModelRow(this.board, this.dialog, () => this.#ask());
    this.rows.set(model.name, row);
    row.draw(model);
    return row;
  }
}
