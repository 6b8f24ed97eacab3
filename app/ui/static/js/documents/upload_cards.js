// The cards of uploads: how far each is, what a person can do with it, what went wrong.

import { arrange, byId, h, icon } from "../dom.js";
import { confirm } from "../views/confirm.js";
import { fromField } from "./gather.js";
import { endWords, failedOf, isOver, mayHelp } from "./uploads.js";
import { bytes, left, number, plural } from "./words.js";

const SLOTS = 3;
const LISTED_MAX = 100;

export class UploadCards {
  constructor(board, uploads) {
    this.board = board;
    this.uploads = uploads;
    this.section = byId("uploads");
    this.views = new Map();
    for (const topic of ["uploads", "personas"]) board.on(topic, () => this.draw());
  }

  draw() {
    const cards = this.uploads.list;
    for (const id of this.views.keys()) if (!this.uploads.cards.has(id)) this.views.delete(id);
    for (const card of cards) {
      if (!this.views.has(card.id)) this.views.set(card.id, new CardView(card, this.board, this.uploads));
      this.views.get(card.id).draw();
    }
    this.section.hidden = !cards.length;
    arrange(byId("upload-list"), cards.map((card) => this.views.get(card.id).element));
  }
}

class CardView {
  constructor(card, board, uploads) {
    this.card = card;
    this.board = board;
    this.uploads = uploads;
    const label = `upload-${card.id}`;
    this.title = h("h3", { id: label });
    this.whose = h("p", { class: "upload-whose" });
    this.words = h("p", { class: "upload-words" });
    this.figures = h("p", { class: "upload-figures" });
    this.trouble = h("p", { class: "upload-trouble", hidden: true });
    this.bar = h("div", { class: "progress", role: "progressbar", "aria-labelledby": label, "aria-valuemin": "0", "aria-valuemax": "100" }, h("i", { class: "received" }), h("i", { class: "done" }));
    this.buttons = this.#buttons();
    this.slots = Array.from({ length: SLOTS }, () => new Slot());
    this.now = h("ul", { class: "upload-now", "aria-label": "Being sent" }, this.slots.map((slot) => slot.element));
    this.errorCount = h("span");
    this.errors = h("ul", { class: "upload-errors" });
    this.details = h("details", { hidden: true }, h("summary", {}, this.errorCount), this.errors);
    this.element = h(
      "li",
      { class: "upload", "aria-labelledby": label },
      h("div", { class: "upload-head" }, h("div", { class: "upload-title" }, this.title, this.whose), h("div", { class: "upload-actions" }, Object.values(this.buttons))),
      this.bar,
      h("div", { class: "upload-told" }, this.words, this.figures),
      this.trouble,
      this.now,
      this.details,
    );
  }

  #buttons() {
    const { card, uploads } = this;
    const button = (name, words, action) =>
      h("button", { type: "button", class: "button small", hidden: true, onclick: () => this.#attempt(action) }, name ? icon(name) : null, h("span", {}, words));
    const field = (folder) => {
      const input = h("input", { type: "file", multiple: true, hidden: true, webkitdirectory: folder, "aria-label": folder ? "Folder with the rest" : "Files of the rest" });
      input.addEventListener("change", () => {
        uploads.continue(card, fromField(input));
        input.value = "";
      });
      return input;
    };
    const [files, folder] = [field(false), field(true)];
    return {
      files: button("upload", "Send the rest", () => files.click()),
      folder: button("folder", "From a folder", () => folder.click()),
      finish: button("", "Nothing more comes", () => uploads.finish(card)),
      pause: button("pause", "Pause", () => uploads.pause(card)),
      resume: button("play", "Go on", () => uploads.resume(card)),
      retry: button("again", "Try failed again", () => uploads.retry(card)),
      cancel: button("", "Cancel", () => this.#cancel()),
      dismiss: button("close", "Dismiss", () => uploads.dismiss(card)),
      filesField: files,
      folderField: folder,
    };
  }

  async #attempt(action) {
    const focused = document.activeElement;
    try {
      await action();
    } catch (problem) {
      this.board.trouble(problem);
    }
    this.draw();
    // a button that did its work is gone: the keyboard goes to what took its place
    if (!this.element.isConnected) byId("add-files").focus();
    else if (focused?.hidden) this.element.querySelector("button:not([hidden])")?.focus();
  }

  async #cancel() {
    const agreed = await confirm({ title: "Cancel this upload?", text: "What is ready stays. The files that are not ready yet are dropped.", yes: "Cancel the upload" });
    if (agreed) await this.uploads.cancel(this.card);
  }

  draw() {
    const { card } = this;
    const tally = tallyOf(card);
    this.element.dataset.state = stateOf(card);
    this.title.textContent = card.name || "Upload";
    this.whose.textContent = `For: ${this.board.storeWords(card.stores)}`;
    this.words.textContent = mainWords(card, tally);
    this.figures.textContent = figureWords(card, tally);
    const trouble = troubleOf(card);
    this.trouble.textContent = trouble;
    this.trouble.hidden = !trouble;
    this.trouble.classList.toggle("warning", Boolean(card.sender?.trouble));
    this.#drawBar(tally);
    this.#drawButtons();
    this.#drawNow();
    this.#drawErrors();
  }

  #drawBar(tally) {
    const done = tally.files ? (tally.doneFiles + tally.embeddedFiles) / tally.files : 0;
    const percent = Math.floor(100 * done);
    this.bar.style.setProperty("--received", String(tally.bytes ? tally.receivedBytes / tally.bytes : 0));
    this.bar.style.setProperty("--done", String(done));
    this.bar.setAttribute("aria-valuenow", String(percent));
    this.bar.setAttribute("aria-valuetext", this.words.textContent);
  }

  #drawButtons() {
    const { card, buttons } = this;
    const state = stateOf(card);
    const shown = {
      files: state === "waiting",
      folder: state === "waiting",
      finish: state === "waiting",
      pause: state === "sending" || state === "working",
      resume: state === "paused",
      retry: failedOf(card) > 0 && card.state !== "cancelled" && (mayHelp(card) || card.sender?.retriable) && state !== "paused",
      cancel: !isOver(card),
      dismiss: isOver(card),
    };
    for (const [name, show] of Object.entries(shown)) buttons[name].hidden = !show;
  }

  #drawNow() {
    const { sender } = this.card;
    const active = sender?.state === "sending" ? sender.in("sending").slice(0, SLOTS) : [];
    this.now.hidden = sender?.state !== "sending";
    this.slots.forEach((slot, index) => slot.draw(active[index]));
  }

  #drawErrors() {
    const { card } = this;
    const here = card.sender?.in("failed").map((entry) => ({ name: entry.path, reason: entry.reason })) ?? [];
    const count = failedOf(card);
    const shown = [...here, ...card.errors].slice(0, LISTED_MAX);
    this.details.hidden = !count;
    this.errorCount.textContent = `${plural(count, "file")} failed`;
    const signature = JSON.stringify([count, shown]);
    if (signature === this.signature) return;
    this.signature = signature;
    const more = count > shown.length ? h("li", { class: "more" }, `… and ${number(count - shown.length)} more; filter the list below by “Failed”.`) : null;
    this.errors.replaceChildren(...shown.map(({ name, reason }) => h("li", {}, h("strong", {}, name), h("span", {}, reason))), ...(more ? [more] : []));
  }
}

/** A line for a file that is being sent; it keeps its place while it is empty. */
class Slot {
  constructor() {
    this.name = h("span", { class: "slot-name" });
    this.size = h("span", { class: "slot-size" });
    this.bar = h("div", { class: "progress thin", role: "progressbar", "aria-valuemin": "0", "aria-valuemax": "100" }, h("i", { class: "done" }));
    this.element = h("li", {}, this.name, this.bar, this.size);
  }

  draw(entry) {
    this.element.classList.toggle("empty", !entry);
    this.element.setAttribute("aria-hidden", String(!entry));
    if (!entry) return;
    const share = entry.size ? entry.sent / entry.size : 0;
    this.name.textContent = entry.path;
    this.size.textContent = bytes(entry.size);
    this.bar.style.setProperty("--done", String(share));
    this.bar.setAttribute("aria-label", entry.path);
    this.bar.setAttribute("aria-valuenow", String(Math.round(share * 100)));
  }
}

/** sending, working, paused, waiting (for files that nobody sends), done, cancelled. */
function stateOf(card) {
  if (isOver(card)) return card.state;
  if (card.state === "paused" || card.sender?.state === "paused") return "paused";
  if (card.sender?.state === "sending" || card.sender?.state === "new") return "sending";
  return card.state === "open" && !card.sender ? "waiting" : "working";
}

/** What there is and how far it is, whichever side knows better. */
function tallyOf({ progress, sender }) {
  const here = sender?.totals ?? { files: 0, bytes: 0, sentBytes: 0, failed: 0 };
  const { files } = progress;
  const settledThere = (files.indexed ?? 0) + (files.failed ?? 0) + (files.cancelled ?? 0) + (files.replaced ?? 0);
  return {
    files: Math.max(here.files, progress.files_total + here.failed),
    bytes: Math.max(here.bytes, progress.bytes_total),
    receivedBytes: Math.max(here.sentBytes, progress.bytes_received),
    doneFiles: settledThere + here.failed,
    embeddedFiles: (files.embedding ?? 0) * embeddedShare(progress),
    arrived: progress.files_total - (files.receiving ?? 0),
  };
}

/** Of the files that get their vectors now: a large one is at it for minutes. */
const embeddedShare = ({ windows, windows_embedded: made }) => (windows ? made / windows : 0);

function mainWords(card, tally) {
  const state = stateOf(card);
  if (state === "done") return `Finished: ${endWords(card)}`;
  if (state === "cancelled") return `Cancelled: ${endWords(card)}`;
  const ready = `${number(tally.doneFiles)} of ${plural(tally.files, "file")} done`;
  if (state === "paused") return `Paused · ${ready}`;
  if (state === "waiting") return `${plural(tally.arrived, "file")} arrived, more were to come. If sending was interrupted, choose the same files again: what arrived is not sent twice.`;
  if (state === "sending") return `Sending: ${number(card.sender.totals.sentFiles)} of ${number(card.sender.entries.length)} sent · ${ready}`;
  return `Reading and indexing · ${ready}`;
}

function figureWords(card, tally) {
  const { progress } = card;
  const parts = [`${bytes(tally.receivedBytes)} of ${bytes(tally.bytes)}`, plural(progress.chunks, "passage")];
  if (!isOver(card) && progress.windows_embedded) parts.push(`${number(progress.windows_embedded)} of ${plural(progress.windows, "vector")}`);
  if (!isOver(card) && progress.files_per_s > 0) parts.push(`${progress.files_per_s.toFixed(1)} files/s`);
  if (!isOver(card) && progress.bytes_per_s > 0) parts.push(`${bytes(progress.bytes_per_s)}/s`);
  if (!isOver(card) && progress.eta_s) parts.push(left(progress.eta_s));
  return parts.join(" · ");
}

function troubleOf(card) {
  const parts = [];
  if (card.sender?.trouble) parts.push(card.sender.trouble);
  if (card.hidden) parts.push(`${plural(card.hidden, "hidden file")} left out.`);
  return parts.join(" ");
}
