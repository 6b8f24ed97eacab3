// The list of documents as the page has it: loaded in parts as they come into view, kept true while work goes on, and
// which of them are chosen. Draws nothing.

import * as calls from "./calls.js";
import { atMostEvery } from "./board.js";

const PART = 100;
const PARTS_KEPT_MAX = 20;
const REFRESH_EVERY_MS = 1_000;
const CHOSEN_MAX = 5_000;
const NO_FILTER = { query: "", state: "current", store: "", kind: "" };

export class Shelf {
  constructor(board) {
    this.board = board;
    this.wanted = { ...NO_FILTER };
    this.total = null;
    this.parts = new Map();
    this.loading = new Set();
    this.round = 0;
    this.view = [0, 0];
    this.chosen = new Map();
    this.lastChosen = null;
    this.failed = false;
    this.stale = atMostEvery(REFRESH_EVERY_MS, () => document.visibilityState === "visible" && this.#reload());
    board.on("documents-stale", this.stale);
    board.on("back", this.stale);
    board.on("document", (event) => this.#changed(event));
    globalThis.document.addEventListener("visibilitychange", this.stale);
  }

  /** Whether anything restricts the list. */
  get filtered() {
    return Object.entries(NO_FILTER).some(([name, value]) => this.wanted[name] !== value);
  }

  filter(wanted) {
    this.wanted = { ...this.wanted, ...wanted };
    this.round += 1;
    this.parts.clear();
    this.loading.clear();
    this.total = null;
    this.choose([]);
    this.view = [0, PART - 1];
    return this.#reload();
  }

  clearFilter() {
    return this.filter(NO_FILTER);
  }

  at(index) {
    return this.parts.get(Math.floor(index / PART))?.[index % PART] ?? null;
  }

  get anyFailed() {
    return [...this.parts.values()].some((documents) => documents.some((document) => document.state === "failed"));
  }

  indexOf(documentId) {
    for (const [part, documents] of this.parts) {
      const at = documents.findIndex((document) => document.id === documentId);
      if (at >= 0) return part * PART + at;
    }
    return -1;
  }

  /** These rows are looked at: get those that are not here. */
  async show(first, last) {
    this.view = [first, last];
    await Promise.all(this.#partsInView().filter((part) => !this.parts.has(part)).map((part) => this.#load(part)));
  }

  #partsInView() {
    const [first, last] = this.view.map((index) => Math.floor(Math.max(0, index) / PART));
    return Array.from({ length: last - first + 1 }, (_, index) => first + index);
  }

  /** What is in view is asked for anew, the rest is forgotten. */
  async #reload() {
    const inView = this.#partsInView();
    await Promise.all(inView.map((part) => this.#load(part)));
    for (const part of this.parts.keys()) if (!inView.includes(part)) this.parts.delete(part);
  }

  async #load(part) {
    const { round } = this;
    const key = `${round}:${part}`;
    if (this.loading.has(key)) {
      this.stale();
      return;
    }
    this.loading.add(key);
    try {
      const { documents, total } = await calls.documents(this.wanted, PART, part * PART);
      if (round !== this.round) return;
      this.parts.set(part, documents);
      this.total = total;
      this.failed = false;
      for (const document of documents) if (this.chosen.has(document.id)) this.chosen.set(document.id, document);
      this.#forgetFar();
    } catch (problem) {
      if (round !== this.round) return;
      if (!this.failed) this.board.trouble(problem);
      this.failed = true;
      setTimeout(this.stale, REFRESH_EVERY_MS);
    } finally {
      this.loading.delete(key);
    }
    this.board.emit("documents");
  }

  #forgetFar() {
    const middle = (this.view[0] + this.view[1]) / 2 / PART;
    const far = [...this.parts.keys()].sort((one, two) => Math.abs(two - middle) - Math.abs(one - middle));
    for (const part of far.slice(0, Math.max(0, this.parts.size - PARTS_KEPT_MAX))) this.parts.delete(part);
  }

  /** A file's state changed: its row says so at once, and figures follow. */
  #changed({ document_id: documentId, state, reason }) {
    const index = this.indexOf(documentId);
    if (index >= 0) {
      const part = this.parts.get(Math.floor(index / PART));
      part[index % PART] = { ...part[index % PART], state, reason: reason ?? null };
      this.board.emit("documents");
    }
    this.stale();
  }

  // ---- choosing ----

  choose(documents) {
    this.chosen = new Map(documents.map((document) => [document.id, document]));
    this.board.emit("selection");
  }

  /** With `through`, every row between the last one chosen and this one. */
  toggle(document, through = false) {
    const [from, to] = [this.indexOf(this.lastChosen), this.indexOf(document.id)];
    if (through && from >= 0 && to >= 0) {
      for (let index = Math.min(from, to); index <= Math.max(from, to); index += 1) {
        const one = this.at(index);
        if (one) this.chosen.set(one.id, one);
      }
    } else if (!this.chosen.delete(document.id)) this.chosen.set(document.id, document);
    this.lastChosen = document.id;
    this.board.emit("selection");
  }

  /** Every document of the list, also those that were never scrolled to. */
  async chooseAll() {
    const here = [...this.parts.values()].flat();
    if (here.length === this.total) this.choose(here);
    else this.choose(await calls.everyDocument(this.wanted, CHOSEN_MAX));
  }

  // ---- what a person does to documents; each gives {done, failed} ----

  async remove(documents, progress) {
    const result = await calls.toEach(documents, (document) => calls.remove(document.id).catch(ignoreGone), progress);
    for (const document of documents) if (!result.failed.some(({ item }) => item === document)) this.chosen.delete(document.id);
    return this.#after(result);
  }

  assign(documents, stores, progress) {
    return calls.toEach(documents, (document) => calls.assign(document.id, stores), progress).then((result) => this.#after(result));
  }

  retry(documents, progress) {
    return calls.toEach(documents, (document) => calls.retry(document.id), progress).then((result) => this.#after(result));
  }

  async #after(result) {
    await this.#reload();
    this.board.emit("selection");
    return result;
  }
}

function ignoreGone(problem) {
  if (problem.status !== 404) throw problem;
}
