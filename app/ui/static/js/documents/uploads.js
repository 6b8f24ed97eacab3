// The uploads that are shown as cards: those that run, wherever they were started, and those that ended while this page
// was open. An upload that this page sends has a Sender.

import * as calls from "./calls.js";
import { divide, nameOf, withoutHidden } from "./gather.js";
import { Sender } from "./sender.js";
import { atMostEvery } from "./board.js";
import { plural } from "./words.js";

const LOOK_EVERY_MS = 5_000;
const LISTED = 20;
const CARDS_MAX = 20;
const ERRORS_EVERY_MS = 1_500;
const ERRORS_SHOWN_MAX = 100;
const NOT_PAUSED = 409;
const ENDED = new Set(["done", "cancelled"]);

export class Uploads {
  constructor(board) {
    this.board = board;
    this.cards = new Map();
    this.dismissed = new Set();
    this.limits = null;
    this.counted = atMostEvery(100, () => board.emit("uploads"));
    board.on("upload", (event) => this.#told(event));
    board.on("back", () => this.look());
    addEventListener("beforeunload", (event) => this.sending && event.preventDefault());
  }

  async start() {
    this.limits = await calls.limits();
    this.board.emit("limits");
    await this.look();
    setInterval(() => document.visibilityState === "visible" && this.look(), LOOK_EVERY_MS);
  }

  /** Newest first. */
  get list() {
    return [...this.cards.values()].sort((one, two) => two.createdAt - one.createdAt);
  }

  get sending() {
    return this.list.some((card) => card.sender?.state === "sending");
  }

  /** Uploads that another page, another program, or this page before a reload has begun. */
  async look() {
    let found;
    try {
      found = await calls.uploads(LISTED);
    } catch {
      return; // the line tells when the reef is away
    }
    for (const upload of found) {
      const card = this.cards.get(upload.id);
      if (card) this.#update(card, upload, upload.progress);
      else if (!ENDED.has(upload.state) && !this.dismissed.has(upload.id)) this.#add(upload);
    }
    // what others delete or give to someone else is told by no upload that is followed
    this.board.emit("documents-stale");
  }

  /** Send these files as new uploads; more than one where the limits ask for it. */
  async add(files, stores) {
    const { wanted, hidden } = withoutHidden(files);
    if (!wanted.length) throw new Error(hidden ? `Nothing to add: ${plural(hidden, "hidden file")} left out.` : "Nothing to add: there is no file in it.");
    this.limits ??= await calls.limits();
    for (const part of divide(wanted, this.limits)) {
      const upload = await calls.createUpload(nameOf(part), stores);
      const card = this.#add(upload, { hidden, sender: this.#sender(upload.id, part) });
      card.sender.start();
    }
    this.board.say(`Sending ${plural(wanted.length, "file")}.${hidden ? ` ${plural(hidden, "hidden file")} left out.` : ""}`);
    this.board.emit("documents-stale");
  }

  /** Send the rest of an upload that was interrupted: of these files, those that did not arrive. */
  continue(card, files) {
    card.sender = this.#sender(card.id, withoutHidden(files).wanted);
    card.sender.start(true);
    this.counted();
  }

  pause(card) {
    card.sender?.pause();
    return this.#change(card, "pause");
  }

  async resume(card) {
    try {
      // asked for whatever the card says: a reading from before the pause may have come after it
      await this.#change(card, "resume");
    } catch (problem) {
      if (problem.status !== NOT_PAUSED) throw problem;
    }
    if (card.sender?.state === "paused") card.sender.start();
  }

  async cancel(card) {
    card.sender?.end();
    await this.#change(card, "cancel");
    this.board.say(`Upload ${card.name} cancelled.`);
  }

  /** No more files of it will come. */
  finish(card) {
    return this.#change(card, "close");
  }

  async retry(card) {
    card.announced = false;
    if (mayHelp(card)) await this.#change(card, "retry");
    if (card.sender?.retriable) await card.sender.retry();
  }

  dismiss(card) {
    this.cards.delete(card.id);
    this.dismissed.add(card.id);
    this.board.live.leaveUpload(card.id);
    this.board.emit("uploads");
  }

  #sender(uploadId, files) {
    const stale = atMostEvery(1_000, () => this.board.emit("documents-stale"));
    return new Sender(uploadId, files, this.limits, () => {
      this.counted();
      stale();
      const card = this.cards.get(uploadId);
      if (card) this.#announce(card);
    });
  }

  /** One change of an upload after the other, in the order in which they were asked for. */
  #change(card, action) {
    const change = card.turn.then(() => this.#changeNow(card, action));
    card.turn = change.catch(() => {});
    return change;
  }

  async #changeNow(card, action) {
    const upload = await calls.changeUpload(card.id, action);
    this.#update(card, upload, upload.progress);
    if (!ENDED.has(upload.state)) this.board.live.followUpload(card.id);
    this.board.emit("documents-stale");
  }

  #add(upload, { hidden = 0, sender = null } = {}) {
    const card = { id: upload.id, name: upload.name, stores: upload.stores, createdAt: upload.created_at, state: upload.state, progress: upload.progress, errors: [], sender, hidden, announced: false, turn: Promise.resolve() };
    card.loadErrors = atMostEvery(ERRORS_EVERY_MS, () => this.#loadErrors(card));
    this.cards.set(card.id, card);
    const old = this.list.filter((other) => ENDED.has(other.state) && other.sender?.state !== "sending").slice(CARDS_MAX);
    for (const other of old) this.cards.delete(other.id);
    this.board.live.followUpload(card.id);
    if (upload.progress.files.failed) card.loadErrors();
    this.counted();
    return card;
  }

  #told(event) {
    const card = this.cards.get(event.upload_id);
    if (card) this.#update(card, event, event);
    else this.look();
  }

  #update(card, { state }, progress) {
    const failedBefore = card.progress.files.failed ?? 0;
    if (state !== card.state || progress.files_total !== card.progress.files_total || progress.windows_embedded !== card.progress.windows_embedded) this.board.emit("documents-stale");
    Object.assign(card, { state, progress });
    if ((progress.files.failed ?? 0) !== failedBefore) card.loadErrors();
    if (ENDED.has(state)) {
      if (state === "cancelled") card.sender?.end();
      this.board.live.leaveUpload(card.id);
    } else card.announced = false;
    this.#announce(card);
    this.counted();
  }

  async #loadErrors(card) {
    try {
      const { documents } = await calls.documents({ upload_id: card.id, state: "failed" }, ERRORS_SHOWN_MAX);
      card.errors = documents.map((document) => ({ id: document.id, name: document.name, reason: document.reason ?? "Why is not known.", retryable: document.retryable }));
    } catch {
      return; // asked again with the next failure
    }
    this.counted();
  }

  #announce(card) {
    if (card.announced || !isOver(card)) return;
    card.announced = true;
    this.board.emit("documents-stale");
    if (card.state === "done") this.board.say(`Upload ${card.name} finished: ${endWords(card)}.`, failedOf(card) > 0);
  }
}

export const isOver = (card) => ENDED.has(card.state) && (!card.sender || card.sender.state === "ended");

/** Files that failed here or there. */
export const failedOf = (card) => (card.progress.files.failed ?? 0) + (card.sender?.in("failed").length ?? 0);

/** Whether trying again may help any of those that failed there; of very many not every reason is looked at. */
export const mayHelp = (card) => (card.progress.files.failed ?? 0) > ERRORS_SHOWN_MAX || (card.progress.files.failed > 0 && card.errors.some((one) => one.retryable));

/** How an upload ended: "19 ready, 1 failed". */
export function endWords(card) {
  const { files } = card.progress;
  const parts = [`${plural(files.indexed ?? 0, "file")} ready`];
  if (failedOf(card)) parts.push(`${failedOf(card)} failed`);
  if (files.cancelled) parts.push(`${files.cancelled} cancelled`);
  if (card.progress.replaced) parts.push(`${plural(card.progress.replaced, "earlier document")} replaced`);
  return parts.join(", ");
}
