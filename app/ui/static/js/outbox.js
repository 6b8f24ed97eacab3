// A message on its way to the reef: sent once, shown at once, tried again when the reef is busy or out of reach.
// The idempotency key goes with every try, so a message whose answer was lost is not said twice.

import * as api from "./api.js";
import { keepPreference } from "./keep.js";

const TRIES_MAX = 5;
const RETRY_AFTER_DEFAULT_S = 3;

let count = 0;

export class Outbox {
  constructor(store) {
    this.store = store;
  }

  /** Say this in the chat shown. Answers false when it cannot be said now. */
  send(text) {
    const { store } = this;
    const persona = store.current;
    if (!persona || store.activeRun || store.view.entry?.state === "sending") return false;
    const { view } = store;
    clearTimeout(view.entry?.timer);
    count += 1;
    view.entry = { key: `out:${count}`, text, personaId: persona.id, idempotencyKey: randomKey(), state: "sending", tries: 0, problem: null, retryAt: 0 };
    view.personaId = persona.id;
    keepPreference("persona", persona.id);
    store.emit("thread");
    store.emit("composer");
    this.#deliver(view, view.entry);
    return true;
  }

  /** Try again now. */
  again() {
    const { view } = this.store;
    if (!view.entry || view.entry.state === "sending") return;
    clearTimeout(view.entry.timer);
    view.entry.state = "sending";
    this.store.emit("thread");
    this.#deliver(view, view.entry);
  }

  /** Take the message back; answers its text. */
  takeBack() {
    const { view } = this.store;
    const text = view.entry?.text ?? "";
    clearTimeout(view.entry?.timer);
    view.entry = null;
    this.store.emit("thread");
    this.store.emit("composer");
    return text;
  }

  leave() {
    clearTimeout(this.store.view.entry?.timer);
  }

  connected() {
    if (this.store.view.entry?.problem?.unreachable) this.again();
  }

  async #deliver(view, entry) {
    const { store } = this;
    entry.tries += 1;
    try {
      const first = !view.sessionId;
      if (first) await this.#begin(view, entry);
      const answer = await api.chat(entry.personaId, view.sessionId, entry.text, entry.idempotencyKey);
      store.accepted(view, entry, answer);
      if (first && view === store.view) await store.reload();
    } catch (problem) {
      if (!(problem instanceof api.Problem)) throw problem;
      this.#refused(view, entry, problem);
    }
  }

  /** A chat gets its session with its first message; its address changes without a new entry in the history. */
  async #begin(view, entry) {
    const session = await api.createSession(entry.personaId);
    view.sessionId = session.id;
    view.session = session;
    if (view === this.store.view) {
      this.store.live.watch(session.id);
      this.store.emit("begun");
    }
  }

  #refused(view, entry, problem) {
    entry.problem = problem;
    entry.state = "failed";
    if (problem.status === 409 && problem.runId) this.store.reload();
    if (problem.busy && entry.tries < TRIES_MAX && view === this.store.view) {
      const waitS = problem.retryAfterS ?? RETRY_AFTER_DEFAULT_S;
      entry.state = "waiting";
      entry.retryAt = Date.now() + waitS * 1000;
      entry.timer = setTimeout(() => this.again(), waitS * 1000);
    }
    if (view !== this.store.view) return;
    this.store.say(`Not sent. ${problem.message}`, true);
    this.store.emit("thread");
    this.store.emit("composer");
  }
}

/** crypto.randomUUID exists only on secure origins; a reef on the local network may be plain http. */
function randomKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
}
