// The replies that this page has heard of, followed on the live line until they end.

import { Run } from "./run.js";

const RUNS_KEPT_MAX = 50;

export class Runs extends Map {
  constructor(live) {
    super();
    this.live = live;
  }

  /** A reply of this chat, known or new, and followed from here on. */
  adopt(sessionId, { run_id: runId, persona_id: personaId, reply_message_id: replyMessageId = null, prompt_message_id: promptMessageId = null }) {
    let run = this.get(runId);
    if (!run) {
      run = new Run({ runId, sessionId, personaId, replyMessageId, promptMessageId });
      this.set(runId, run);
      this.#dropOld();
    }
    run.replyMessageId ??= replyMessageId;
    this.live.follow(run);
    return run;
  }

  #dropOld() {
    for (const [runId, run] of this) {
      if (this.size <= RUNS_KEPT_MAX) return;
      if (run.final) this.delete(runId);
    }
  }

  /** Those of this chat that are being written. */
  activeIn(sessionId) {
    return [...this.values()].filter((run) => run.sessionId === sessionId && !run.final);
  }

  /** Its end was not heard here: it had left the log by the time we came back, or the chat was deleted elsewhere. */
  missed(run, told) {
    run.phase = told ? "done" : "stopped";
    this.live.forget(run);
  }

  /** Why nothing happens now, where a reply that is followed says so; else "". */
  get held() {
    return [...this.values()].find((run) => !run.final && run.held)?.held ?? "";
  }
}
