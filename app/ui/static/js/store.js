// What the page knows, and what a person can do with it. Views listen to topics and never change the state themselves.
//
// Topics: "personas", "sessions", "view" (another chat is shown), "thread" (its turns changed), "run" (a reply grew),
// "composer", "connection", "status", "say" (words for a screen reader), "trouble" (words for the composer's note).

import { Bus } from "./bus.js";
import * as api from "./api.js";
import { emptyView, isActive, turnsOf, userMessage } from "./chat_view.js";
import { Chats } from "./chats.js";
import { AGAIN_MS, Fetched } from "./fetched.js";
import { NEW, keepPreference, preference } from "./keep.js";
import { Live } from "./live.js";
import { Outbox } from "./outbox.js";
import { Runs } from "./runs.js";

const RELOAD_AFTER_MS = 150;
const END_HEARD_WITHIN_MS = 3_000;
const POLL_WITHOUT_SOCKET_MS = 4_000;

export class Store extends Bus {
  constructor() {
    super();
    this.personas = [];
    this.personasFetched = new Fetched(() => this.loadPersonas(), () => this.emit("personas"));
    this.chats = new Chats();
    this.sessionsFetched = new Fetched(() => this.loadSessions(), () => this.emit("sessions"));
    this.status = null;
    this.connection = "connecting";
    this.view = emptyView(null, preference("persona", null));
    this.outbox = new Outbox(this);
    this.live = new Live({ onEvent: (event) => this.#received(event), onState: (state) => this.#connection(state) });
    this.runs = new Runs(this.live);
  }

  trouble(problem) {
    this.emit("trouble", problem);
  }

  // ---- personas ----

  persona(personaId) {
    return this.personas.find((persona) => persona.id === personaId) ?? null;
  }

  /** The persona that the composer speaks to. */
  get current() {
    return this.persona(this.view.personaId) ?? (this.view.sessionId ? null : this.personas[0] ?? null);
  }

  async loadPersonas() {
    this.personas = await api.personas();
    this.emit("personas");
  }

  /** The persona of the chat shown was deleted: it can be read, and nobody answers in it. */
  get orphaned() {
    const { session, personaId } = this.view;
    return Boolean(session) && this.personasFetched.state === "here" && !this.persona(personaId);
  }

  async savePersona(personaId, fields) {
    const saved = personaId ? await api.updatePersona(personaId, fields) : await api.createPersona(fields);
    await this.personasFetched.now();
    return saved;
  }

  async deletePersona(personaId, documents) {
    await api.deletePersona(personaId, documents);
    await this.personasFetched.now();
    if (this.view.personaId === personaId && !this.view.sessionId) this.newChat(this.personas[0]?.id ?? null);
  }

  // ---- chats ----

  get sessions() {
    return this.chats.list;
  }

  async loadSessions(query = this.chats.query) {
    if (await this.chats.load(query)) this.emit("sessions");
  }

  /** Answers the chats that came. */
  async loadEarlierSessions() {
    const come = await this.chats.loadEarlier();
    this.emit("sessions");
    return come;
  }

  #refreshSessions() {
    clearTimeout(this.sessionsTimer);
    this.sessionsTimer = setTimeout(() => this.sessionsFetched.now(), RELOAD_AFTER_MS);
  }

  /** What other tabs and devices may have changed since we looked. */
  async refresh() {
    await Promise.all([this.personasFetched.now(), this.sessionsFetched.now()]);
    const { sessionId } = this.view;
    // a chat that is not in the list may have been deleted
    if (sessionId && !this.sessions.some((session) => session.id === sessionId)) await this.reload();
  }

  refreshSoon() {
    clearTimeout(this.refreshTimer);
    this.refreshTimer = setTimeout(() => this.refresh(), RELOAD_AFTER_MS);
  }

  newChat(personaId = this.view.personaId) {
    if (personaId) keepPreference("persona", personaId);
    this.#show(emptyView(null, personaId));
  }

  /** A new chat as it was left: with the message that could not be sent in it. */
  resumeNewChat() {
    const entry = this.outbox.waiting(null);
    this.#show(emptyView(null, entry?.personaId ?? this.view.personaId, entry));
    this.outbox.resume();
  }

  async openSession(sessionId) {
    this.#show({ ...emptyView(sessionId, null, this.outbox.waiting(sessionId)), loading: true });
    await this.reload();
  }

  /** The new chat of this message became a session. */
  begin(entry, session) {
    this.#refreshSessions();
    if (this.view.entry !== entry) return;
    this.view.sessionId = session.id;
    this.view.session = session;
    this.live.watch(session.id);
    this.emit("begun");
  }

  #show(view) {
    this.view = view;
    this.live.watch(view.sessionId);
    this.emit("view");
    this.emit("thread");
  }

  /** The chat as the server has it, with the replies that are being written now. */
  async reload() {
    const { view } = this;
    if (!view.sessionId) return;
    const askedAt = performance.now();
    let history;
    try {
      history = await api.history(view.sessionId);
    } catch (problem) {
      if (view === this.view) this.#notRead(view, problem);
      return;
    }
    if (view !== this.view) return;
    this.#take(view, history, askedAt);
    this.emit("view");
    this.emit("thread");
    this.outbox.resume();
  }

  /** What is shown stays while the chat cannot be read, and is asked for again; a chat that is gone is told as gone. */
  #notRead(view, problem) {
    view.loading = false;
    if (!problem.gone) {
      clearTimeout(this.reloadTimer);
      this.reloadTimer = setTimeout(() => this.reload(), AGAIN_MS);
      if (view.session) return;
    }
    view.problem = problem;
    if (problem.gone) for (const run of this.runs.activeIn(view.sessionId)) this.runs.missed(run, false);
    this.emit("view");
    this.emit("thread");
    this.emit("composer");
  }

  #take(view, history, askedAt) {
    const keys = new Map(view.messages.filter((message) => message.key).map((message) => [message.id, message.key]));
    view.loading = false;
    view.problem = null;
    view.session = history.session;
    view.personaId = history.session.persona_id;
    view.messages = history.messages.map((message) => ({ ...message, key: keys.get(message.id) }));
    const told = new Set(view.messages.map((message) => message.run_id).filter(Boolean));
    view.ended = view.ended.filter((run) => !told.has(run.id) || run.phase === "error");
    for (const active of history.active_runs) this.runs.adopt(view.sessionId, active);
    for (const run of this.runs.activeIn(view.sessionId)) {
      const over = run.knownAt < askedAt && !isActive(run, history);
      // one that was refused at once has no message, and its reason may still be on its way here
      if (over && (told.has(run.id) || run.knownAt < askedAt - END_HEARD_WITHIN_MS)) this.runs.missed(run, told.has(run.id));
    }
  }

  async rename(title) {
    this.view.session = await api.renameSession(this.view.sessionId, title);
    this.emit("view");
    this.#refreshSessions();
  }

  async deleteSession(sessionId) {
    await api.deleteSession(sessionId);
    this.outbox.drop(sessionId);
    this.chats.drop(sessionId);
    this.emit("sessions");
    if (this.view.sessionId === sessionId) this.newChat(this.view.personaId);
  }

  // ---- a turn ----

  /** The reply that is being written in the chat shown, if any. */
  get activeRun() {
    return this.runs.activeIn(this.view.sessionId)[0] ?? null;
  }

  /** Where the draft of the chat shown is kept. */
  get place() {
    return this.view.sessionId ?? NEW;
  }

  /** The messages of the chat shown with what is on its way in and out. */
  turns() {
    return turnsOf(this.view, this.runs);
  }

  send(text) {
    return this.outbox.send(text);
  }

  /** The server took the message in: from here the run is what counts. */
  accepted(entry, answer) {
    const { view } = this;
    const run = this.runs.adopt(answer.session_id, { ...answer, persona_id: entry.personaId });
    this.#refreshSessions();
    if (view.entry !== entry) return run;
    view.entry = null;
    view.ended = view.ended.filter((other) => other === run); // a refusal may be heard before the answer to the call
    if (!view.messages.some((message) => message.id === answer.prompt_message_id)) view.messages.push(userMessage(entry, answer));
    this.emit("thread");
    this.emit("composer");
    return run;
  }

  async regenerate(message) {
    this.#replace(message, await api.regenerate(message.id), null);
  }

  /** The reply goes on in a turn of its own; nothing is replaced. */
  async goOn(message) {
    this.#replace(message, await api.goOn(message.id), message);
  }

  async edit(message, text) {
    const answer = await api.edit(message.id, text);
    const edited = { ...message, id: answer.prompt_message_id ?? message.id, key: undefined, content: text, html: undefined };
    this.#replace(message, answer, edited);
  }

  #replace(message, answer, edited) {
    const { view } = this;
    const run = this.runs.adopt(answer.session_id, { ...answer, persona_id: message.persona_id || view.personaId });
    const index = view.messages.findIndex((other) => other.id === message.id);
    if (index >= 0) view.messages = [...view.messages.slice(0, index), ...(edited ? [edited] : [])];
    view.ended = view.ended.filter((other) => other === run); // a refusal may be heard before the answer to the call
    this.emit("thread");
    this.emit("composer");
    return run;
  }

  async stop() {
    const run = this.activeRun;
    if (!run) return;
    run.stopping = true;
    this.emit("run", { run, change: "phase" });
    this.emit("composer");
    try {
      await api.stop(run.id);
    } catch (problem) {
      run.stopping = false;
      this.emit("composer");
      this.trouble(problem);
    }
  }

  // ---- what comes in ----

  #received(event) {
    if (event.type === "emotion") this.#mood(event);
    if (!event.run_id) {
      if (event.type === "error") this.#reloadSoon(); // the answer to a frame of ours: what we asked to hear of is gone
      return;
    }
    let run = this.runs.get(event.run_id);
    if (!run) {
      if (event.session_id !== this.view.sessionId) {
        this.#refreshSessions();
        return;
      }
      run = this.runs.adopt(event.session_id, { run_id: event.run_id, persona_id: event.persona_id ?? "" });
      // ours, if a message is being handed in; else started by another tab or device: then its message, and what it
      // superseded, stand in the history
      if (this.view.entry?.state !== "sending") this.#reloadSoon();
    }
    const { held } = run;
    const change = run.apply(event);
    if (run.held !== held) this.loadStatus();
    if (!change) return;
    if (event.type !== "restarted" || change === "replaced") this.#tell(run, event);
    if (change === "final") this.#ended(run);
    else this.emit("run", { run, change });
    if (event.type === "queued") this.emit("composer");
  }

  #reloadSoon() {
    clearTimeout(this.reloadTimer);
    this.reloadTimer = setTimeout(() => this.reload(), RELOAD_AFTER_MS);
    this.#refreshSessions();
  }

  #mood(event) {
    const persona = this.persona(event.persona_id);
    if (!persona || persona.mood === event.state) return;
    persona.mood = event.state;
    this.emit("personas");
  }

  async #ended(run) {
    this.live.forget(run);
    const { view } = this;
    const shown = run.sessionId === view.sessionId;
    if (shown) {
      view.ended = [...view.ended.filter((other) => other !== run), run];
      this.emit("run", { run, change: "final" });
      this.emit("composer");
    }
    this.#refreshSessions();
    if (!shown || run.phase === "error") {
      if (shown) this.#reloadSoon();
      return;
    }
    if (!run.messageId) {
      // stopped before its first word, or with its chat
      this.#reloadSoon();
      return;
    }
    try {
      const message = await api.message(run.messageId);
      if (view !== this.view) return;
      view.ended = view.ended.filter((other) => other !== run);
      const index = view.messages.findIndex((other) => other.id === message.id);
      if (index >= 0) view.messages[index] = message;
      else view.messages.push(message);
      this.emit("thread");
      if (run.phase === "done") this.say(`${this.persona(run.personaId)?.name ?? "Reply"}: ${message.content}`);
    } catch {
      // the plain text stays; the history is asked for again when the connection is back
    }
  }

  #tell(run, event) {
    if (run.sessionId !== this.view.sessionId) return;
    const name = this.persona(run.personaId)?.name ?? "The persona";
    if (event.type === "typing") this.say(`${name} is reading.`);
    else if (event.type === "restarted") this.say("The device restarted; the answer begins again.");
    else if (event.type === "stopped") this.say("Stopped.");
    else if (event.type === "error") this.say(event.message, true);
  }

  #connection(state) {
    const before = this.connection;
    this.connection = state;
    this.emit("connection", state);
    clearInterval(this.pollTimer);
    if (state === "sse") {
      // server-sent events tell of one run only: ask now and then whether another tab started one
      this.pollTimer = setInterval(() => document.visibilityState === "visible" && this.#poll(), POLL_WITHOUT_SOCKET_MS);
    }
    if ((state === "open" || state === "sse") && before !== "connecting") {
      this.reload();
      this.personasFetched.now();
      this.#refreshSessions();
      this.outbox.connected();
    }
    if (before !== "connecting") this.loadStatus();
  }

  async #poll() {
    await this.loadSessions().catch(() => {});
    const session = this.sessions.find((other) => other.id === this.view.sessionId);
    if (session?.active_run_id && !this.runs.has(session.active_run_id)) await this.reload();
  }

  async loadStatus() {
    try {
      this.status = await api.status();
    } catch {
      this.status = null;
    }
    this.emit("status");
  }
}
