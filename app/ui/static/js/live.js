// The line on which replies arrive: one WebSocket, found again when it breaks; server-sent events where a WebSocket
// cannot get through. Sending is plain HTTP (api.js), which has status codes, Retry-After and idempotency keys.

import { eventsUrl, uploadEventsUrl } from "./api.js";

const BACKOFF_FIRST_MS = 300;
const BACKOFF_MAX_MS = 10_000;
const PING_EVERY_MS = 20_000;
const PONG_WITHIN_MS = 8_000;
const OPEN_WITHIN_MS = 6_000;
const FAILURES_BEFORE_SSE = 2;
const SOCKET_AGAIN_MS = 60_000;
const SESSIONS_WATCHED_MAX = 12;
const UPLOADS_MAX = 16;
const UPLOAD_SOURCES_MAX = 3;
const UPLOAD_EVENTS = ["upload", "document"];
const FINAL = new Set(["done", "stopped", "error"]);
const EVENT_TYPES = ["queued", "started", "typing", "token", "restarted", "resumed", "done", "stopped", "error", "emotion", "tool_call", "citation", "notice"];

export class Live {
  /** `onEvent(event)` for each event; `onState(state)` with "connecting", "open", "lost" or "sse". */
  constructor({ onEvent, onState }) {
    this.onEvent = onEvent;
    this.onState = onState;
    this.state = "connecting";
    this.runs = new Map();
    this.sources = new Map();
    this.uploads = new Set();
    this.system = false;
    this.watched = null;
    this.watchedHere = new Set();
    this.failures = 0;
    this.socket = null;
    this.everOpen = false;
    this.timers = {};
    addEventListener("online", () => this.#now());
    addEventListener("pageshow", () => this.#now());
    document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && this.#wake());
  }

  start() {
    this.#open();
  }

  /** Hear of every run that starts in this session. */
  watch(sessionId) {
    if (this.watched === sessionId) return;
    this.watched = sessionId;
    if (!sessionId || this.watchedHere.has(sessionId) || this.socket?.readyState !== WebSocket.OPEN) return;
    // a connection may watch only so many sessions and cannot leave one: begin a new connection in time
    if (this.watchedHere.size >= SESSIONS_WATCHED_MAX) this.#renew();
    else this.#sendWatch();
  }

  #sendWatch() {
    this.watchedHere.add(this.watched);
    this.#send({ type: "watch", session_id: this.watched });
  }

  #renew() {
    const old = this.socket;
    this.#leave();
    this.#open();
    old.close();
  }

  /** Hear this run from where it was last heard, now and after every reconnect, until it ends. */
  follow(run) {
    if (run.final || this.runs.has(run.id)) return;
    this.runs.set(run.id, run);
    if (this.state === "sse") this.#openSource(run);
    else this.#send({ type: "resume", run_id: run.id, last_seq: run.cursor });
  }

  forget(run) {
    this.runs.delete(run.id);
    this.#closeSource(run.id);
  }

  /** Hear how this upload stands and what happens in it, now and after every reconnect. False: it follows enough. */
  followUpload(uploadId) {
    if (this.uploads.has(uploadId)) return true;
    if (this.uploads.size >= UPLOADS_MAX) return false;
    this.uploads.add(uploadId);
    if (this.state === "sse") this.#openUploadSource(uploadId);
    else this.#send({ type: "subscribe", upload_id: uploadId });
    return true;
  }

  leaveUpload(uploadId) {
    if (!this.uploads.delete(uploadId)) return;
    this.#closeSource(uploadId);
    this.#send({ type: "unsubscribe", upload_id: uploadId });
  }

  /** Hear how the whole reef stands, now and after every reconnect, or no longer. */
  watchSystem(on) {
    if (this.system === on) return;
    this.system = on;
    this.#send({ type: "watch_system", on });
  }

  #closeSource(name) {
    this.sources.get(name)?.close();
    this.sources.delete(name);
  }

  #send(frame) {
    if (this.socket?.readyState === WebSocket.OPEN) this.socket.send(JSON.stringify(frame));
  }

  #open() {
    clearTimeout(this.timers.retry);
    const address = `${location.protocol === "https:" ? "wss" : "ws"}://${location.host}/ws`;
    const socket = new WebSocket(address);
    this.socket = socket;
    this.timers.open = setTimeout(() => socket.close(), OPEN_WITHIN_MS);
    socket.onopen = () => socket === this.socket && this.#opened();
    socket.onmessage = (message) => this.#received(socket, message.data);
    socket.onclose = () => this.#closed(socket);
  }

  #opened() {
    clearTimeout(this.timers.open);
    this.everOpen = true;
    for (const source of this.sources.values()) source.close();
    this.sources.clear();
    this.watchedHere.clear();
    if (this.watched) this.#sendWatch();
    for (const run of this.runs.values()) this.#send({ type: "resume", run_id: run.id, last_seq: run.cursor });
    for (const uploadId of this.uploads) this.#send({ type: "subscribe", upload_id: uploadId });
    if (this.system) this.#send({ type: "watch_system" });
    this.timers.ping = setInterval(() => this.#ping(), PING_EVERY_MS);
    this.#become("open");
  }

  #received(socket, data) {
    if (socket !== this.socket) return;
    this.failures = 0;
    clearTimeout(this.timers.pong);
    this.timers.pong = null;
    let event;
    try {
      event = JSON.parse(data);
    } catch {
      socket.close();
      return;
    }
    if (event.type !== "pong") this.onEvent(event);
  }

  #ping() {
    if (this.timers.pong) return;
    this.#send({ type: "ping" });
    const socket = this.socket;
    this.timers.pong = setTimeout(() => this.#closed(socket), PONG_WITHIN_MS);
  }

  #closed(socket) {
    if (socket !== this.socket) return;
    this.#leave();
    socket.close();
    this.failures += 1;
    if (this.failures >= FAILURES_BEFORE_SSE) this.#fallBack();
    else if (this.state !== "sse") this.#become("lost");
    const wait = this.state === "sse" && !this.everOpen ? SOCKET_AGAIN_MS : this.#backoffMs();
    this.timers.retry = setTimeout(() => this.#open(), wait);
  }

  #leave() {
    this.socket = null;
    clearTimeout(this.timers.open);
    clearTimeout(this.timers.pong);
    clearInterval(this.timers.ping);
    this.timers.pong = null;
  }

  /** Exponential with full jitter, so that a thousand pages do not come back in the same instant. */
  #backoffMs() {
    const ceiling = Math.min(BACKOFF_MAX_MS, BACKOFF_FIRST_MS * 2 ** this.failures);
    return ceiling / 4 + Math.random() * ceiling * 0.75;
  }

  #wake() {
    if (this.state === "open") this.#ping();
    else this.#now();
  }

  #now() {
    if (!this.socket) this.#open();
  }

  /** The socket does not open: if plain HTTP does, hear the runs one by one as server-sent events. */
  async #fallBack() {
    let reachable = false;
    try {
      reachable = (await fetch("/healthz", { cache: "no-store", signal: AbortSignal.timeout(3_000) })).ok;
    } catch {
      reachable = false;
    }
    if (this.socket?.readyState === WebSocket.OPEN) return;
    if (!reachable) {
      this.#become("lost");
      return;
    }
    for (const run of this.runs.values()) this.#openSource(run);
    for (const uploadId of this.uploads) this.#openUploadSource(uploadId);
    this.#become("sse");
  }

  #openSource(run) {
    this.#source(run.id, eventsUrl(run.id, run.cursor), EVENT_TYPES, (event) => {
      run.synced = true;
      if (FINAL.has(event.type)) this.forget(run);
    });
  }

  /** A browser opens only a few connections to one host: who follows more uploads asks now and then instead. */
  #openUploadSource(uploadId) {
    if (this.sources.size < UPLOAD_SOURCES_MAX) this.#source(uploadId, uploadEventsUrl(uploadId), UPLOAD_EVENTS, () => {});
  }

  #source(name, url, types, before) {
    if (this.sources.has(name)) return;
    const source = new EventSource(url);
    this.sources.set(name, source);
    const receive = (message) => {
      const event = JSON.parse(message.data);
      before(event);
      this.onEvent(event);
    };
    for (const type of types) {
      // an `error` without data is EventSource's own: the connection broke, and it reconnects by itself
      source.addEventListener(type, (message) => message.data !== undefined && receive(message));
    }
  }

  #become(state) {
    if (state === this.state) return;
    this.state = state;
    this.onState(state);
  }
}
