// Ways in for files: a drop anywhere on the page, the two buttons, and for whom they are.

import { byId } from "../dom.js";
import { keepPreference, preference } from "../keep.js";
import { SHARED } from "./board.js";
import { fromDrop, fromField } from "./gather.js";
import { chooseStores } from "./stores_dialog.js";
import { bytes, number } from "./words.js";

const KEPT = "documents-for";

export class Adding {
  constructor(board, uploads) {
    this.board = board;
    this.uploads = uploads;
    this.stores = preference(KEPT, [SHARED]);
    this.busy = byId("gathering");
    byId("for-whom").addEventListener("click", () => this.#choose());
    for (const [button, field] of [["add-files", "field-files"], ["add-folder", "field-folder"], ["empty-files", "field-files"], ["empty-folder", "field-folder"]]) {
      byId(button).addEventListener("click", () => byId(field).click());
    }
    for (const id of ["field-files", "field-folder"]) byId(id).addEventListener("change", (event) => this.#fromField(event.target));
    board.on("personas", () => this.#drawWhom());
    board.on("limits", () => this.#drawLimits());
    this.#drops();
  }

  #fromField(input) {
    const files = fromField(input);
    input.value = "";
    if (files.length) this.#add(() => files);
  }

  async #add(gather) {
    this.busy.textContent = "Looking at what you chose…";
    this.busy.hidden = false;
    try {
      await this.uploads.add(await gather((count) => (this.busy.textContent = `Looking through folders: ${number(count)} files so far…`)), this.stores);
    } catch (problem) {
      this.board.trouble(problem);
    } finally {
      this.busy.hidden = true;
    }
  }

  // ---- dropping ----

  #drops() {
    const zone = byId("drop-zone");
    let depth = 0;
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files") && !document.querySelector("dialog[open]");
    const over = (event, change) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      depth = Math.max(0, depth + change);
      zone.hidden = depth === 0;
    };
    addEventListener("dragenter", (event) => over(event, 1));
    addEventListener("dragleave", (event) => over(event, -1));
    addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
    addEventListener("drop", (event) => {
      if (!carriesFiles(event)) return;
      event.preventDefault();
      depth = 0;
      zone.hidden = true;
      const found = fromDrop(event.dataTransfer, (count) => (this.busy.textContent = `Looking through folders: ${number(count)} files so far…`));
      this.#add(() => found);
    });
  }

  // ---- for whom ----

  async #choose() {
    const stores = await chooseStores(this.board, { title: "Who are the next documents for?", stores: this.stores, yes: "Use this" });
    if (!stores) return;
    this.stores = stores;
    keepPreference(KEPT, stores);
    this.#drawWhom();
    this.board.say(`The next documents are for: ${this.board.storeWords(stores)}.`);
  }

  #drawWhom() {
    // a persona that is gone is nobody to keep documents for
    this.stores = this.stores.filter((store) => store === SHARED || this.board.personas.some((persona) => persona.id === store));
    if (!this.stores.length) this.stores = [SHARED];
    const words = this.board.storeWords(this.stores);
    byId("for-whom-words").textContent = words;
    byId("drop-whom").textContent = `For: ${words}`;
  }

  #drawLimits() {
    const { file_bytes_max: archiveBytes, document_bytes_max: documentBytes, files_max: files, upload_bytes_max: uploadBytes } = this.uploads.limits;
    const words = `A document may have ${bytes(Math.min(documentBytes, archiveBytes))}, an archive (zip, tar.gz) ${bytes(archiveBytes)}; an upload ${number(files)} files and ${bytes(uploadBytes)} — what is more becomes another upload by itself.`;
    for (const place of document.querySelectorAll("[data-limits]")) place.textContent = words;
  }
}
