// Messages on their way to the reef: each shown at once, kept in this browser until it is accepted or taken back, and
// tried again when the reef is busy or out of reach, whatever chat is shown meanwhile. The idempotency key goes with
// every try, also after a reload, so a message whose answer was lost is not said twice.

import * as api from "./api.js";
import { forgetUnsent, isUnsent, keepPreference, keepUnsent, unsent } from "./keep.js";

const TRIES_MAX = 5;
const RETRY_AFTER_DEFAULT_S = 3;
const RESEND_WITHIN_MS = 10 * 60_000; // what was written longer ago is offered, not sent by itself
const LEFT_BEHIND = { message: "It was left here when this page was closed." };

export class Outbox {
  constructor(store) {
    this.store = store;
    this.entries = new Map();
  }

  /** The message that waits in this chat (null: in a new one), from now or from an earlier visit; null where none. */
  waiting(sessionId) {
    for (const entry of this.entries.values()) {
      if (this.#settledElsewhere(entry)) this.entries.delete(entry.idempotencyKey);
      else if (entry.sessionId === sessionId) return entry;
    }
    const kept = unsent().find((message) => message.sessionId === sessionId);
    return kept ? this.#enter(kept, "kept", true) : null;
  }

  /** Say this in the chat shown. Answers false when it cannot be said now. */
  send(text) {
    const { store } = this;
    const { view, current: persona } = store;
    if (!persona || store.activeRun || view.entry) return false;
    const message = { idempotencyKey: randomKey(), text, personaId: persona.id, sessionId: view.sessionId, begun: false, at: Date.now() };
    view.entry = this.#enter(message, "sending", keepUnsent(message));
    view.personaId = persona.id;
    keepPreference("persona", persona.id);
    this.#deliver(view.entry);
    return true;
  }

  #enter(message, state, stored) {
    const entry = { ...message, key: `out:${message.idempotencyKey}`, state, stored, tries: 0, problem: null, retryAt: 0, timer: null };
    this.entries.set(entry.idempotencyKey, entry);
    return entry;
  }

  /** Try again now. */
  again(entry = this.store.view.entry) {
    if (entry && entry.state !== "sending") this.#deliver(entry);
  }

  /** The chat of a message from an earlier visit is open again: send it, or offer it where that was long ago. */
  resume() {
    const { entry } = this.store.view;
    if (entry?.state !== "kept") return;
    if (Date.now() - entry.at < RESEND_WITHIN_MS) {
      this.#deliver(entry);
      return;
    }
    entry.state = "failed";
    entry.problem = LEFT_BEHIND;
    this.#tell(entry);
  }

  /** Take the message of the chat shown back; answers its text. */
  takeBack() {
    const { view } = this.store;
    const { entry } = view;
    if (!entry) return "";
    view.entry = null;
    this.#forget(entry);
    this.store.emit("thread");
    this.store.emit("composer");
    return entry.text;
  }

  /** Another chat is begun: what could not be sent in the last new one is taken back; answers the texts. */
  takeBackNew() {
    const texts = [];
    for (let entry = this.waiting(null); entry && entry.state !== "sending"; entry = this.waiting(null)) {
      this.#forget(entry);
      texts.push(entry.text);
    }
    return texts.join("\n");
  }

  /** The chat was deleted here, with what waited in it. */
  drop(sessionId) {
    for (let entry = this.waiting(sessionId); entry; entry = this.waiting(sessionId)) this.#forget(entry);
  }

  connected() {
    for (const entry of this.entries.values()) if (entry.problem?.unreachable) this.again(entry);
  }

  #forget(entry) {
    clearTimeout(entry.timer);
    this.entries.delete(entry.idempotencyKey);
    forgetUnsent(entry.idempotencyKey);
    this.store.emit("sessions");
  }

  /** Another tab has sent it or taken it back. */
  #settledElsewhere(entry) {
    return entry.stored && entry.state !== "sending" && !isUnsent(entry.idempotencyKey);
  }

  async #deliver(entry) {
    const { store } = this;
    clearTimeout(entry.timer);
    if (this.#settledElsewhere(entry)) {
      this.#leave(entry);
      return;
    }
    entry.state = "sending";
    entry.tries += 1;
    this.#tell(entry);
    try {
      const first = !entry.sessionId;
      if (first) await this.#begin(entry);
      const answer = await api.chat(entry.personaId, entry.sessionId, entry.text, entry.idempotencyKey);
      const shown = store.view.entry === entry;
      this.#forget(entry);
      store.accepted(entry, answer);
      if (first && shown) await store.reload();
    } catch (problem) {
      if (!(problem instanceof api.Problem)) throw problem;
      this.#refused(entry, problem);
    }
  }

  #leave(entry) {
    this.entries.delete(entry.idempotencyKey);
    if (this.store.view.entry !== entry) return;
    this.store.view.entry = null;
    this.store.emit("composer");
    this.store.reload();
  }

  /** A chat gets its session with its first message; its address changes without a new entry in the history. */
  async #begin(entry) {
    const { store } = this;
    const session = await api.createSession(entry.personaId);
    entry.sessionId = session.id;
    entry.begun = true;
    const { idempotencyKey, text, personaId, sessionId, begun, at } = entry;
    if (entry.stored) keepUnsent({ idempotencyKey, text, personaId, sessionId, begun, at });
    store.begin(entry, session);
  }

  #refused(entry, problem) {
    const { store } = this;
    entry.problem = problem;
    entry.state = "failed";
    if ((problem.busy || problem.unreachable) && entry.tries < TRIES_MAX) {
      const waitS = problem.retryAfterS ?? RETRY_AFTER_DEFAULT_S;
      entry.state = "waiting";
      entry.retryAt = Date.now() + waitS * 1000;
      entry.timer = setTimeout(() => this.again(entry), waitS * 1000);
    }
    if (store.view.entry !== entry) return;
    // a reply is being written that we did not know of; or the chat or its persona is gone
    if (problem.status === 409 && problem.runId) store.reload();
    else if (problem.gone) store.refresh();
    store.say(`Not sent. ${problem.message}`, true);
    this.#tell(entry);
  }

  #tell(entry) {
    this.store.emit("sessions");
    if (this.store.view.entry !== entry) return;
    this.store.emit("thread");
    this.store.emit("composer");
  }
}

/** crypto.randomUUID exists only on secure origins; a reef on the local network may be plain http. */
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
