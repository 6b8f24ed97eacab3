// The page of one document: what it is, its text with its passages, the passage of the address (`?chunk=`) marked.

import { byId, h } from "../dom.js";
import { preference } from "../keep.js";
import { confirm } from "../views/confirm.js";
import { announcer, connectionBanner } from "../views/notices.js";
import { themeToggle } from "../views/theme.js";
import { Board, SHARED } from "./board.js";
import * as calls from "./calls.js";
import { mark, pageAt, sections } from "./passages.js";
import { chooseStores } from "./stores_dialog.js";
import { troubleNotice } from "./trouble.js";
import { bytes, isArchive, mayPass, moving, number, pageWords, plural, splitName, stateWords, wayShare, wholeDate } from "./words.js";

const LOOK_AGAIN_MS = 3_000;
const documentId = decodeURIComponent(location.pathname.split("/").at(-1));

class Viewer {
  constructor() {
    this.board = new Board();
    this.text = byId("passages");
    this.chunks = [];
    this.at = -1;
    themeToggle();
    announcer(this.board);
    troubleNotice(this.board);
    connectionBanner(this.board, "Connection lost, trying again…");
    byId("previous").addEventListener("click", () => this.#step(-1));
    byId("next").addEventListener("click", () => this.#step(1));
    byId("retry").addEventListener("click", () => this.#attempt(async () => this.#show(await calls.retry(documentId))));
    byId("change-stores").addEventListener("click", () => this.#attempt(() => this.#assign()));
    byId("delete").addEventListener("click", () => this.#attempt(() => this.#delete()));
    this.text.addEventListener("click", (event) => this.#picked(event));
    addEventListener("keydown", (event) => this.#key(event));
    addEventListener("popstate", () => this.#goToAddress());
    this.board.on("personas", () => this.document && this.#drawFacts());
    this.board.on("document", (event) => event.document_id === documentId && this.#look());
    this.board.on("back", () => this.#look());
  }

  async start() {
    this.board.live.start();
    this.board.loadPersonas().catch((problem) => this.board.trouble(problem));
    await this.#look();
    document.documentElement.dataset.ready = "true";
  }

  async #attempt(action) {
    try {
      await action();
    } catch (problem) {
      this.board.trouble(problem);
    }
  }

  /** How the document stands now; while it is on its way, or the reef is away, again and again. */
  async #look() {
    clearTimeout(this.timer);
    try {
      await this.#show(await calls.document(documentId));
    } catch (problem) {
      if (problem.status === 404) this.#missing();
      else {
        this.board.trouble(problem);
        this.timer = setTimeout(() => this.#look(), LOOK_AGAIN_MS);
      }
    }
  }

  #missing() {
    byId("document-title").textContent = "This document is not here";
    byId("way").textContent = "It was deleted, or the address has a mistake. What it said may still be in older answers.";
    byId("way").hidden = false;
    byId("document-tools").hidden = byId("steps").hidden = true;
    byId("loading").hidden = true;
    this.board.say("This document is not here.", true);
  }

  async #show(shown) {
    this.document = shown;
    const [folder, name] = splitName(shown.name);
    const title = shown.title || name;
    document.title = `${title} · Coral Reef`;
    byId("document-title").textContent = title;
    byId("document-path").textContent = folder || title !== name ? shown.name : "";
    byId("download").href = calls.originalUrl(documentId);
    byId("download").hidden = shown.sha256 === null;
    byId("retry").hidden = !mayPass(shown);
    byId("document-tools").hidden = false;
    this.#drawFacts();
    this.#drawWay();
    if (moving(shown.state)) {
      if (shown.upload_id) this.board.live.followUpload(shown.upload_id);
      this.timer = setTimeout(() => this.#look(), LOOK_AGAIN_MS);
    }
    if (shown.state === "indexed" && !this.chunks.length) await this.#loadText();
    else byId("loading").hidden = true;
  }

  #drawFacts() {
    const { document: shown } = this;
    const facts = [
      ["For", this.board.storeWords(shown.stores)],
      ["Size", bytes(shown.size_bytes)],
      ["Pages", shown.pages ? number(shown.pages) : ""],
      ["Passages", shown.chunk_count ? number(shown.chunk_count) : ""],
      ["Language", shown.language ? languageName(shown.language) : ""],
      ["Added", wholeDate(shown.created_at)],
    ];
    byId("facts").replaceChildren(...facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
  }

  #drawWay() {
    const { document: shown } = this;
    const words = {
      failed: `This file could not be read. ${shown.reason ?? ""}`,
      cancelled: "Its upload was cancelled before it was ready.",
      replaced: shown.reason ?? "A newer document took its place; this one is not found any more.",
    }[shown.state];
    const onItsWay = moving(shown.state);
    const text = words ?? (onItsWay ? `${stateWords(shown.state)}… Its text will stand here when it is ready.` : "");
    byId("way").replaceChildren(text, ...(shown.state === "replaced" ? [" ", this.#wayOn()] : []));
    byId("way").hidden = !byId("way").textContent;
    byId("way").classList.toggle("trouble", shown.state === "failed");
    byId("way-bar").hidden = !onItsWay;
    byId("way-bar").style.setProperty("--done", String(wayShare(shown)));
    byId("way-bar").setAttribute("aria-valuenow", String(Math.round(wayShare(shown) * 100)));
    byId("way-bar").setAttribute("aria-valuetext", stateWords(shown.state));
  }

  /** From a document that was replaced to what is found in its place, where an old citation may have meant. */
  #wayOn() {
    const { name, successor } = this.document;
    if (successor) {
      const from = new URLSearchParams(location.search).get("from");
      const url = from === null ? calls.pageOf(successor) : `${calls.pageOf(successor)}?near=${encodeURIComponent(from)}`;
      return h("a", { href: url }, from === null ? "Open the newer one" : "Open the newer one at about this place");
    }
    if (isArchive(name)) return h("a", { href: `/documents?${new URLSearchParams({ query: `${name}/` })}` }, "Show its files");
    return "The newer one was deleted since.";
  }

  // ---- the text ----

  /** Part by part, so that the first page of a long book stands there at once. */
  async #loadText() {
    let total = 1;
    while (this.chunks.length < total) {
      let part;
      try {
        part = await calls.chunks(documentId, this.chunks.length);
      } catch (problem) {
        byId("loading").textContent = `${problem.message} Trying again…`;
        await new Promise((resolve) => setTimeout(resolve, LOOK_AGAIN_MS));
        continue;
      }
      if (!part.chunks.length) break;
      total = part.total;
      this.text.append(...sections(part.chunks, this.chunks.at(-1) ?? null, this.document.mime_type === "application/pdf"));
      const first = !this.chunks.length;
      this.chunks.push(...part.chunks);
      byId("steps").hidden = false;
      byId("loading").textContent = `${number(this.chunks.length)} of ${plural(total, "passage")} loaded…`;
      byId("loading").hidden = this.chunks.length >= total;
      if (this.at < 0) this.#goToAddress({ last: this.chunks.length >= total });
      if (first) this.#drawSteps();
    }
  }

  #goToAddress({ last = true } = {}) {
    const address = new URLSearchParams(location.search);
    const wanted = address.get("chunk");
    if (wanted === null) {
      if (address.has("near")) this.#goNear(Number(address.get("near")), last);
      return;
    }
    const at = this.chunks.findIndex((chunk) => String(chunk.id) === wanted);
    if (at >= 0) this.#goTo(at, spanOf(address, this.chunks[at]));
    else if (last) this.board.trouble({ message: "The passage of this address is not here any more: the document was indexed anew since. Its text follows." });
  }

  /** About where an older version of this document had something: nothing is marked, it may not be there any more. */
  #goNear(place, last) {
    const at = this.chunks.findIndex((chunk) => chunk.end > place);
    if (at >= 0 || last) this.#goTo(at >= 0 ? at : this.chunks.length - 1, null);
  }

  /** `span`: what is meant in the document's text; null where that is not known. */
  #goTo(at, span = this.chunks[at]) {
    this.at = at;
    this.span = span;
    const chunk = this.chunks[at];
    mark(this.text, chunk, span);
    const section = byId(`passage-${chunk.id}`);
    section.focus({ preventScroll: true });
    const show = () => {
      const small = section.offsetHeight < innerHeight * 0.7;
      const meant = small ? section : (span && span !== chunk && section.querySelector("mark")) || section;
      meant.scrollIntoView({ block: small || meant !== section ? "center" : "start" });
    };
    show();
    // what is off the screen has an estimated height until it was near: look again when it has its own
    requestAnimationFrame(() => requestAnimationFrame(show));
    this.#drawSteps();
  }

  #drawSteps() {
    const chunk = this.chunks[this.at];
    const place = chunk ? placeWords(chunk, this.span) : "";
    byId("step-words").textContent = chunk ? [`Passage ${number(this.at + 1)} of ${number(this.document.chunk_count)}`, place].filter(Boolean).join(" · ") : plural(this.chunks.length, "passage");
    byId("previous").disabled = this.at <= 0;
    byId("next").disabled = this.at >= this.chunks.length - 1;
  }

  #step(by) {
    const at = this.at + by;
    if (at < 0 || at >= this.chunks.length) return;
    this.#open(at);
  }

  #open(at) {
    history.replaceState(null, "", `?chunk=${this.chunks[at].id}`);
    this.#goTo(at);
  }

  #picked(event) {
    const link = event.target.closest(".passage-number");
    if (!link || event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
    event.preventDefault();
    this.#open(this.chunks.findIndex((chunk) => String(chunk.id) === link.dataset.chunk));
  }

  #key(event) {
    if (!preference("shortcuts", true) || event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
    const by = { j: 1, k: -1 }[event.key];
    if (by) this.#step(by);
  }

  // ---- what a person does ----

  async #assign() {
    const stores = await chooseStores(this.board, { title: "Who is this document for?", stores: this.document.stores.length ? this.document.stores : [SHARED], yes: "Save" });
    if (!stores) return;
    await this.#show(await calls.assign(documentId, stores));
    this.board.say(`Now for: ${this.board.storeWords(stores)}.`);
  }

  async #delete() {
    const [, name] = splitName(this.document.name);
    const agreed = await confirm({ title: `Delete ${name}?`, text: "No persona will find it again. The file kept here is deleted too; yours is not touched.", yes: "Delete" });
    if (!agreed) return;
    await calls.remove(documentId);
    location.assign("/documents");
  }
}

/** The span that an address names inside a passage; without one the whole passage is meant. */
function spanOf(address, chunk) {
  const [start, end] = ["from", "to"].map((name) => Number(address.get(name) ?? NaN));
  return start >= chunk.start && start < end && end <= chunk.end ? { start, end } : chunk;
}

function placeWords(chunk, span) {
  if (!span || span === chunk) return pageWords(chunk.page_first, chunk.page_last);
  return pageWords(pageAt(chunk, span.start - chunk.start), pageAt(chunk, span.end - 1 - chunk.start));
}

function languageName(code) {
  try {
    return new Intl.DisplayNames(["en"], { type: "language" }).of(code) ?? code;
  } catch {
    return code;
  }
}

new Viewer().start();
