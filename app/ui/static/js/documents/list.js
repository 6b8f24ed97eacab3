// The list of documents on the screen: only the rows in view exist, each of the same height, so that thousands are as
// smooth as ten. A table on a wide screen, cards on a narrow one; the same elements.

import { arrange, byId, h, icon } from "../dom.js";
import * as calls from "./calls.js";
import { bytes, day, mayPass, moving, number, plural, splitName, stateWords, wayShare, wholeDate } from "./words.js";

const BEYOND = 8;

export class DocumentList {
  /** `actions`: remove(documents), retry(documents). */
  constructor(board, shelf, actions) {
    this.board = board;
    this.shelf = shelf;
    this.actions = actions;
    this.table = byId("document-table");
    this.body = byId("document-rows");
    this.rows = new Map();
    this.current = 0;
    this.frame = null;
    this.round = null;
    this.going = false;
    board.on("documents", () => this.#follow());
    for (const topic of ["documents", "selection", "personas"]) board.on(topic, () => this.drawSoon());
    addEventListener("scroll", () => this.drawSoon(), { passive: true });
    new ResizeObserver(() => this.drawSoon()).observe(document.body);
    this.body.addEventListener("keydown", (event) => this.#key(event));
    this.body.addEventListener("focusin", (event) => this.#focused(event));
  }

  drawSoon() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = null;
      this.#draw();
    });
  }

  get #rowHeight() {
    return parseFloat(getComputedStyle(this.table).getPropertyValue("--row-height"));
  }

  /** [first, last] of the rows that are, or nearly are, on the screen. */
  #inView() {
    const height = this.#rowHeight;
    const top = this.body.getBoundingClientRect().top;
    const first = Math.max(0, Math.floor(-top / height) - BEYOND);
    const last = Math.min((this.shelf.total ?? 0) - 1, Math.ceil((innerHeight - top) / height) + BEYOND);
    return [first, last];
  }

  /** Rows are higher where a reason is to be read; for as long as the list shows the same, so that it does not jump. */
  #sizeRows() {
    const { round } = this.shelf;
    const told = (round === this.round && this.table.classList.contains("with-reasons")) || this.shelf.anyFailed;
    this.round = round;
    if (told === this.table.classList.contains("with-reasons")) return;
    const before = this.#rowHeight;
    const above = Math.max(0, -this.body.getBoundingClientRect().top) / before;
    this.table.classList.toggle("with-reasons", told);
    if (above) scrollBy({ top: above * (this.#rowHeight - before), behavior: "instant" });
  }

  get #focusedRow() {
    return this.body.contains(document.activeElement) ? document.activeElement.closest("[role=row]") : null;
  }

  /** Rows above came or went: the keyboard stays with its document. */
  #follow() {
    const index = this.going ? -1 : this.shelf.indexOf(this.#focusedRow?.dataset.documentId);
    if (index >= 0) this.current = index;
  }

  #draw() {
    const { total } = this.shelf;
    const focused = this.#focusedRow;
    this.#sizeRows();
    this.body.style.setProperty("--rows", String(total ?? 0));
    this.table.setAttribute("aria-rowcount", String((total ?? 0) + 1));
    this.current = Math.max(0, Math.min(this.current, (total ?? 1) - 1));
    const [first, last] = this.#inView();
    const shown = new Map();
    for (let index = first; index <= last; index += 1) {
      const document = this.shelf.at(index);
      const key = document?.id ?? `row-${index}`;
      const row = this.rows.get(key) ?? new Row(this);
      row.draw(document, index);
      shown.set(key, row);
    }
    this.rows = shown;
    arrange(this.body, [...shown.values()].map((row) => row.element));
    // its document is gone, others deleted it too: the keyboard goes to what took its place
    if (focused && !focused.isConnected && this.shelf.indexOf(focused.dataset.documentId) < 0) this.focus();
    if (last >= first) this.shelf.show(first, last);
  }

  #focused(event) {
    const row = event.target.closest("[role=row]");
    if (!row) return;
    this.current = Number(row.dataset.index);
    for (const other of this.rows.values()) other.reach(this.current);
  }

  async #key(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !event.target.matches(".document-name")) return;
    const at = this.current;
    const to = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: this.shelf.total - 1 }[event.key];
    const document = this.shelf.at(at);
    if (to !== undefined) {
      event.preventDefault();
      await this.#goTo(Math.max(0, Math.min(this.shelf.total - 1, to)));
    } else if (event.key === " " && document) {
      event.preventDefault();
      this.shelf.toggle(document, event.shiftKey);
    } else if (event.key === "Delete" && document) {
      event.preventDefault();
      const { chosen } = this.shelf;
      this.actions.remove(chosen.has(document.id) ? [...chosen.values()] : [document]);
    }
  }

  /** Bring a row into view, get it if it is not here, and give it the keyboard. */
  async #goTo(index) {
    this.current = index;
    const height = this.#rowHeight;
    const top = this.body.getBoundingClientRect().top + index * height;
    const headroom = height;
    if (top < headroom) scrollBy({ top: top - headroom, behavior: "instant" });
    else if (top + height > innerHeight) scrollBy({ top: top + height - innerHeight + 8, behavior: "instant" });
    this.going = true;
    try {
      await this.shelf.show(...this.#inView());
      this.#draw();
      this.focus();
    } finally {
      this.going = false;
    }
  }

  /** Give the keyboard to the current row. */
  focus() {
    this.body.querySelector(`[data-index="${this.current}"] .document-name`)?.focus({ preventScroll: true });
  }
}

class Row {
  constructor(list) {
    this.list = list;
    const cell = (name, ...children) => h("div", { class: `cell ${name}`, role: "cell" }, children);
    this.check = h("input", { type: "checkbox", tabIndex: -1, onclick: (event) => list.shelf.toggle(this.document, event.shiftKey) });
    this.link = h("a", { class: "document-name" });
    this.folder = h("span", { class: "document-folder" });
    this.reason = h("span", { class: "document-reason" });
    this.state = h("span", { class: "state-words" });
    this.bar = h("div", { class: "progress thin", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, h("i", { class: "done" }));
    this.again = h("button", { type: "button", class: "text-button again", tabIndex: -1, onclick: () => list.actions.retry([this.document]) }, "Try again");
    this.whose = cell("whose");
    this.size = cell("size");
    this.pages = cell("pages");
    this.date = cell("date");
    this.element = h(
      "div",
      { role: "row" },
      cell("choose", h("label", {}, this.check)),
      cell("name", this.link, h("span", { class: "document-about" }, this.folder, this.reason)),
      cell("state", h("span", { class: "state-line" }, h("span", { class: "dot", "aria-hidden": "true" }), this.state, this.again), this.bar),
      this.whose,
      this.pages,
      this.size,
      this.date,
    );
  }

  reach(index) {
    this.link.tabIndex = this.index === index ? 0 : -1;
  }

  draw(document, index) {
    if (this.index !== index) {
      this.index = index;
      this.element.style.setProperty("--row", String(index));
      this.element.dataset.index = String(index);
      this.element.setAttribute("aria-rowindex", String(index + 2));
    }
    this.reach(this.list.current);
    this.element.classList.toggle("loading", !document);
    if (!document) return;
    const chosen = this.list.shelf.chosen.has(document.id);
    this.check.checked = chosen;
    this.element.classList.toggle("chosen", chosen);
    const whose = this.list.board.storeWords(document.stores);
    if (document === this.document && whose === this.shownWhose) return;
    this.document = document;
    this.shownWhose = whose;
    this.#fill(document, whose);
  }

  #fill(document, whose) {
    const [folder, name] = splitName(document.name);
    this.element.dataset.state = document.state;
    this.element.dataset.documentId = document.id;
    this.check.setAttribute("aria-label", `Choose ${name}`);
    this.link.textContent = name;
    this.link.href = calls.pageOf(document.id);
    this.link.title = document.name;
    this.folder.textContent = folder;
    this.reason.textContent = document.state === "failed" ? (document.reason ?? "Why is not known.") : "";
    this.reason.title = this.reason.textContent;
    this.state.textContent = stateWords(document.state);
    this.again.hidden = !mayPass(document);
    this.bar.hidden = !moving(document.state);
    const share = wayShare(document);
    this.bar.style.setProperty("--done", String(share));
    this.bar.setAttribute("aria-valuenow", String(Math.round(share * 100)));
    this.bar.setAttribute("aria-valuetext", this.state.textContent);
    this.bar.setAttribute("aria-label", `${name}: ${this.state.textContent}`);
    this.whose.textContent = whose;
    this.whose.title = whose;
    this.size.textContent = bytes(document.size_bytes);
    this.pages.textContent = document.pages ? number(document.pages) : "–";
    this.pages.title = document.pages ? plural(document.pages, "page") : "This kind of file has no pages";
    this.pages.dataset.words = document.pages ? plural(document.pages, "page") : "";
    this.date.textContent = day(document.created_at);
    this.date.title = wholeDate(document.created_at);
  }
}

/** What stands in place of rows: while nothing is loaded, where nothing is there, where nothing fits. */
export function emptyStates(board, shelf) {
  const draw = () => {
    const none = shelf.total === 0;
    byId("empty").hidden = !(none && !shelf.filtered);
    byId("none-fit").hidden = !(none && shelf.filtered);
    byId("document-table").hidden = none;
    byId("list-tools").hidden = none && !shelf.filtered;
    byId("loading").hidden = shelf.total !== null;
    byId("count").textContent = shelf.total === null ? "" : plural(shelf.total, "document");
  };
  board.on("documents", draw);
  byId("clear-filter").addEventListener("click", () => shelf.clearFilter());
  byId("none-fit").prepend(icon("search"));
}
