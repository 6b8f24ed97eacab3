// Above the list: what it is narrowed to, and, once documents are chosen, what can be done with them.

import { byId, h } from "../dom.js";
import { confirm } from "../views/confirm.js";
import { chooseStores } from "./stores_dialog.js";
import { NOBODY, SHARED } from "./board.js";
import { mayPass, plural } from "./words.js";

const SORT_KEPT = "documents-sort";
const NEWEST_FIRST = "-created";
const SEARCH_AFTER_MS = 250;
const FAILURES_TOLD_MAX = 3;
const FIELDS = { query: "filter-query", state: "filter-state", store: "filter-store", kind: "filter-kind" };

export class Tools {
  constructor(board, shelf) {
    this.board = board;
    this.shelf = shelf;
    this.working = "";
    this.fields = Object.fromEntries(Object.entries(FIELDS).map(([name, id]) => [name, byId(id)]));
    this.all = byId("choose-all");
    this.#filters();
    this.#sorting();
    byId("chosen-assign").addEventListener("click", () => this.assign(this.#chosen));
    byId("chosen-retry").addEventListener("click", () => this.retry(this.#chosen.filter(mayPass)));
    byId("chosen-delete").addEventListener("click", () => this.remove(this.#chosen));
    byId("chosen-clear").addEventListener("click", () => {
      shelf.choose([]);
      this.all.focus();
    });
    this.all.addEventListener("click", () => this.#chooseAll());
    board.on("personas", () => this.#drawStores());
    for (const topic of ["selection", "documents"]) board.on(topic, () => this.#draw());
  }

  get #chosen() {
    return [...this.shelf.chosen.values()];
  }

  // ---- narrowing ----

  #filters() {
    const given = new URLSearchParams(location.search);
    for (const name of Object.keys(FIELDS)) if (given.has(name)) this.shelf.wanted[name] = given.get(name);
    this.#drawFields();
    let timer = null;
    const { query, ...choices } = this.fields;
    query.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => this.#narrow({ query: query.value.trim() }), SEARCH_AFTER_MS);
    });
    for (const [name, field] of Object.entries(choices)) field.addEventListener("change", () => this.#narrow({ [name]: field.value }));
    this.board.on("documents", () => this.#drawFields());
  }

  #narrow(wanted) {
    this.shelf.filter(wanted).then(() => this.shelf.total !== null && this.board.say(`${plural(this.shelf.total, "document")}.`));
  }

  /** The address says what is shown, so that it can be kept and come back to. */
  #drawFields() {
    const address = new URLSearchParams();
    for (const [name, field] of Object.entries(this.fields)) {
      const value = this.shelf.wanted[name];
      if (document.activeElement !== field && field.value !== value) field.value = value;
      if (name === "state" ? value !== "current" : value) address.set(name, value);
    }
    const query = address.toString();
    if (query !== location.search.slice(1)) history.replaceState(null, "", query ? `?${query}` : location.pathname);
  }

  #drawStores() {
    const { store } = this.fields;
    const options = [["", "Any persona"], [SHARED, "Shared with all"], ...this.board.personas.map((persona) => [persona.id, persona.name]), [NOBODY, "Nobody"]];
    store.replaceChildren(...options.map(([value, words]) => h("option", { value }, words)));
    store.value = this.shelf.wanted.store;
  }

  // ---- sorting ----

  /** The heads of columns: once sorts by it, again turns it round. Kept as long as the visit. */
  #sorting() {
    const heads = [...document.querySelectorAll(".document-heads [data-sort]")];
    const draw = () => {
      const { sort } = this.shelf.wanted;
      for (const head of heads) {
        const order = { [head.dataset.sort]: "ascending", [`-${head.dataset.sort}`]: "descending" }[sort] ?? "none";
        head.closest("[role=columnheader]").setAttribute("aria-sort", order);
      }
    };
    this.shelf.wanted.sort = sessionStorage.getItem(SORT_KEPT) ?? NEWEST_FIRST;
    for (const head of heads) {
      head.addEventListener("click", () => {
        const by = head.dataset.sort;
        const sort = this.shelf.wanted.sort === by ? `-${by}` : by;
        sessionStorage.setItem(SORT_KEPT, sort);
        this.#narrow({ sort });
        draw();
      });
    }
    draw();
  }

  // ---- what is chosen ----

  async #chooseAll() {
    if (!this.all.checked) return this.shelf.choose([]);
    return this.shelf.chooseAll().catch((problem) => this.board.trouble(problem));
  }

  #draw() {
    const { size } = this.shelf.chosen;
    const total = this.shelf.total ?? 0;
    byId("filters").hidden = size > 0 || Boolean(this.working);
    byId("chosen").hidden = !size && !this.working;
    byId("chosen-words").textContent = this.working || `${plural(size, "document")} chosen`;
    byId("chosen-retry").hidden = !this.#chosen.some(mayPass);
    for (const button of byId("chosen").querySelectorAll("button")) button.disabled = Boolean(this.working);
    this.all.checked = size > 0 && size >= total;
    this.all.indeterminate = size > 0 && size < total;
    this.all.setAttribute("aria-label", `Choose all ${plural(total, "document")}`);
  }

  async assign(documents) {
    const [first] = documents;
    const same = documents.every((document) => String(document.stores) === String(first.stores));
    const title = documents.length === 1 ? `Who is ${first.name.split("/").at(-1)} for?` : `Who are these ${documents.length} documents for?`;
    const stores = await chooseStores(this.board, { title, stores: same && first.stores.length ? first.stores : [SHARED], yes: "Save" });
    if (!stores) return;
    const words = this.board.storeWords(stores);
    await this.#work(documents, "Assigning", (progress) => this.shelf.assign(documents, stores, progress), (count) => `${plural(count, "document")} now for: ${words}.`);
  }

  async remove(documents) {
    const [{ name }] = documents;
    const title = documents.length === 1 ? `Delete ${name.split("/").at(-1)}?` : `Delete ${documents.length} documents?`;
    const agreed = await confirm({ title, text: "No persona will find it again. The file kept here is deleted too; yours is not touched.", yes: "Delete" });
    if (!agreed) return;
    await this.#work(documents, "Deleting", (progress) => this.shelf.remove(documents, progress), (count) => `${plural(count, "document")} deleted.`);
  }

  retry(documents) {
    return this.#work(documents, "Trying again", (progress) => this.shelf.retry(documents, progress), (count) => `${plural(count, "document")} tried again.`);
  }

  async #work(documents, what, action, told) {
    const progress = (count) => {
      this.working = documents.length > 1 ? `${what}: ${count} of ${documents.length}…` : "";
      this.#draw();
    };
    progress(0);
    let result;
    try {
      result = await action(progress);
    } finally {
      this.working = "";
      this.#draw();
    }
    if (result.done.length) this.board.say(told(result.done.length));
    if (result.failed.length) this.board.trouble({ message: failureWords(result.failed) });
  }
}

function failureWords(failed) {
  const some = failed.slice(0, FAILURES_TOLD_MAX).map(({ item, problem }) => `${item.name.split("/").at(-1)}: ${problem.message}`);
  const more = failed.length > some.length ? ` … and ${failed.length - some.length} more.` : "";
  return `${plural(failed.length, "document")} could not be changed. ${some.join(" ")}${more}`;
}
