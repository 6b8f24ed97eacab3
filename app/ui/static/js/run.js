// One reply in the making, as far as this page has heard of it. Pure: no DOM, no network.
//
// Events may come twice (a resume overlaps what was already heard) or late; each is known by its `seq`, and the text
// is whatever the tokens since the last restart say in the order of their `seq`. So nothing doubles and nothing is lost.
// Words that come before the server confirmed our first resume are passed over: the resume tells them again, in order.

export const FINAL_PHASES = new Set(["done", "stopped", "error"]);

export class Run {
  constructor({ runId, sessionId, personaId = "", replyMessageId = null, promptMessageId = null }) {
    this.id = runId;
    this.sessionId = sessionId;
    this.personaId = personaId;
    this.replyMessageId = replyMessageId;
    this.promptMessageId = promptMessageId;
    this.phase = "waiting";
    this.position = null;
    this.waitS = null;
    this.device = "";
    this.model = "";
    this.restarted = false;
    this.stopping = false;
    this.error = null;
    this.usage = null;
    this.metrics = null;
    this.messageId = null;
    this.notice = "";
    this.held = ""; // why nothing happens now
    this.text = "";
    this.tokens = new Map();
    this.phaseSeq = 0;
    this.textFrom = 0;
    this.highest = 0;
    this.synced = false;
    this.knownAt = performance.now();
  }

  get final() {
    return FINAL_PHASES.has(this.phase);
  }

  /** Where to resume: only once the server confirmed a resume is the highest number also a complete one. */
  get cursor() {
    return this.synced ? this.highest : 0;
  }

  /** Take an event in. Answers what changed: "" (nothing), "phase", "appended", "replaced" or "final". */
  apply(event) {
    const seq = event.seq ?? 0;
    if (event.type === "resumed") {
      this.synced = true;
      return "";
    }
    if (this.final && event.type !== "token") return "";
    if (event.type === "token") return this.#token(seq, event.content);
    if (event.type === "queued") return this.#queued(seq, event);
    if (seq && seq <= this.phaseSeq) return "";
    this.phaseSeq = seq;
    this.held = "";
    this.highest = Math.max(this.highest, seq);
    return this.#phase(seq, event);
  }

  #token(seq, content) {
    if (!this.synced || seq <= this.textFrom || this.tokens.has(seq)) return "";
    this.tokens.set(seq, content);
    const late = seq < this.highest && this.tokens.size > 1;
    this.highest = Math.max(this.highest, seq);
    if (!this.final) this.phase = "writing";
    if (this.held) {
      this.held = "";
      this.text = this.#whole();
      return "replaced";
    }
    if (!late) {
      this.text += content;
      return "appended";
    }
    this.text = this.#whole();
    return "replaced";
  }

  #whole() {
    return [...this.tokens.entries()].sort((a, b) => a[0] - b[0]).map((entry) => entry[1]).join("");
  }

  #queued(seq, event) {
    this.highest = Math.max(this.highest, seq);
    this.personaId ||= event.persona_id ?? "";
    const held = this.held;
    this.held = event.note ?? "";
    if (this.phase !== "waiting") return held === this.held ? "" : "phase";
    this.position = event.position;
    this.waitS = event.wait_s ?? null;
    return "phase";
  }

  #phase(seq, event) {
    switch (event.type) {
      case "started":
        this.personaId ||= event.persona_id;
        this.device = event.device;
        this.model = event.model;
        if (this.phase === "waiting") this.phase = "started";
        return "phase";
      case "typing":
        if (this.phase !== "writing") this.phase = "reading";
        return "phase";
      case "notice":
        this.notice = event.message;
        return "phase";
      case "restarted": {
        // told when its worker dies, and again by the next one: the second time is no news
        const known = this.restarted && this.phase === "waiting" && !this.text;
        this.#forget(seq);
        return known ? "phase" : "replaced";
      }
      case "done":
      case "stopped":
        this.phase = event.type;
        this.usage = event.usage ?? null;
        this.metrics = event.metrics ?? null;
        this.messageId = event.message_id ?? null;
        return "final";
      case "error":
        this.phase = "error";
        this.error = { code: event.code, message: event.message, retryAfterS: event.retry_after_s ?? null };
        return "final";
      default:
        return "";
    }
  }

  #forget(seq) {
    this.textFrom = seq;
    for (const known of [...this.tokens.keys()]) if (known <= seq) this.tokens.delete(known);
    this.text = this.#whole();
    this.restarted = true;
    this.position = null;
    this.phase = this.text ? "writing" : "waiting";
  }
}
