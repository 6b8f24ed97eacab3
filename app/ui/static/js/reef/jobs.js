// Jobs that run, wait or were given up. A row that ended stays where it is, greyed, while the pointer or the keyboard
// is in its list: nothing may move away under a finger.

import { arrange, byId, h } from "../dom.js";
import { plural } from "../documents/words.js";
import { confirm } from "../views/confirm.js";
import * as calls from "./calls.js";
import { span, taskWords } from "./words.js";

const LISTS = {
  running: { none: "Nothing runs.", since: (job) => job.started_at, order: (one, two) => one.started_at - two.started_at },
  queued: { none: "Nothing waits.", since: (job) => job.created_at, order: (one, two) => one.created_at - two.created_at },
  dead: { none: "Nothing was given up.", since: (job) => job.finished_at, order: (one, two) => two.finished_at - one.finished_at },
};

export class Jobs {
  constructor(board) {
    this.lists = Object.keys(LISTS).map((state) => new JobList(board, state));
    board.on("change", () => this.lists.forEach((list) => list.draw()));
    board.on("fresh", () => this.lists.forEach((list) => list.draw()));
  }
}

class JobList {
  constructor(board, state) {
    this.board = board;
    this.state = state;
    this.kind = LISTS[state];
    this.rows = new Map();
    this.list = byId(`jobs-${state}`);
    this.count = byId(`jobs-${state}-count`);
    this.none = byId(`jobs-${state}-none`);
    for (const event of ["pointerleave", "focusout"]) this.list.addEventListener(event, () => requestAnimationFrame(() => this.draw()));
  }

  get #held() {
    return this.list.matches(":hover") || this.list.contains(document.activeElement);
  }

  draw() {
    const { board } = this;
    if (!board.reef) return;
    const jobs = board.jobsIn(this.state).sort(this.kind.order);
    const there = new Set(jobs.map((job) => job.id));
    for (const job of jobs) this.#row(job).draw(job);
    for (const [id, row] of this.rows) {
      if (there.has(id)) continue;
      if (this.#held) row.end(board.jobs.get(id));
      else this.rows.delete(id);
    }
    const rows = [...this.rows.values()].sort((one, two) => this.kind.order(one.job, two.job));
    arrange(this.list, rows.map((row) => row.element));
    const total = board.reef.runs[this.state];
    this.count.textContent = String(total);
    this.none.hidden = rows.length > 0;
    this.none.textContent = this.kind.none;
    byId(`jobs-${this.state}-more`).textContent = total > jobs.length ? `and ${total - jobs.length} more` : "";
  }

  #row(job) {
    let row = this.rows.get(job.id);
    if (!row) {
      row = new Row(this, job);
      this.rows.set(job.id, row);
    }
    return row;
  }
}

class Row {
  constructor({ board, state, kind }, job) {
    this.board = board;
    this.kind = kind;
    this.job = job;
    this.about = h("p", { class: "job-about" });
    this.facts = h("p", { class: "job-facts" });
    this.error = h("p", { class: "job-error" });
    this.buttons =
      state === "dead"
        ? [this.#button("Try again", () => this.#do(() => calls.retry(this.job.id), "It waits for its turn again.")), this.#button("Discard", () => this.#discard(), "danger")]
        : [this.#button("Stop", () => this.#stop(), "danger")];
    this.element = h("li", { class: "job", dataset: { jobId: job.id } }, h("div", { class: "job-text" }, this.about, this.facts, this.error), h("div", { class: "job-tools" }, this.buttons));
  }

  #button(words, onclick, kind = "") {
    return h("button", { type: "button", class: `button small ${kind}`, onclick }, words);
  }

  draw(job) {
    const changed = job !== this.job || !this.about.firstChild || this.ended;
    this.job = job;
    if (changed) this.#fill(job);
    const attempt = job.attempts > 1 || job.state === "dead" ? `attempt ${job.attempts} of ${job.attempts_max}` : "";
    const since = this.kind.since(job);
    const age = since === null ? "" : `${span(this.board.now - since)}${job.state === "dead" ? " ago" : ""}`;
    const stopping = job.stop_requested && job.state === "running" ? "stopping" : "";
    const words = [job.pool, job.node, age, attempt, job.route, stopping].filter(Boolean).join(" · ");
    if (this.facts.textContent !== words) this.facts.textContent = words;
  }

  #fill(job) {
    this.ended = false;
    this.element.classList.remove("ended");
    const what = jobWords(job);
    const chat = job.session_id && h("a", { href: `/chat/${encodeURIComponent(job.session_id)}` }, job.session_title || "its chat");
    this.about.replaceChildren(h("strong", {}, what), ...(chat ? [" in ", chat] : []));
    this.error.textContent = job.state === "dead" ? (job.error ?? "Why is not known.") : "";
    for (const button of this.buttons) {
      button.disabled = job.stop_requested && job.state === "running";
      button.setAttribute("aria-label", `${button.textContent}: ${what}`);
    }
  }

  /** It is not in this list any more. */
  end(now) {
    if (this.ended) return;
    this.ended = true;
    this.element.classList.add("ended");
    this.facts.textContent = now ? "moved on" : "ended";
    for (const button of this.buttons) button.disabled = true;
  }

  async #stop() {
    const what = jobWords(this.job);
    const text = this.job.documents
      ? "Its files wait again and are taken up by another job. To stop them, pause or cancel their upload on the documents page."
      : "What it has done so far is kept where it can be; who waits for it is told.";
    if (await confirm({ title: `Stop: ${what}?`, text, yes: "Stop this job" })) await this.#do(() => calls.cancel(this.job.id), `Stopped: ${what}.`);
  }

  async #discard() {
    const what = jobWords(this.job);
    const text = "It leaves this list for good and cannot be tried again.";
    if (await confirm({ title: `Discard: ${what}?`, text, yes: "Discard" })) await this.#do(() => calls.discard(this.job.id), `Discarded: ${what}.`);
  }

  async #do(action, told) {
    for (const button of this.buttons) button.disabled = true;
    try {
      await action();
      this.board.answer(told);
    } catch (problem) {
      this.board.trouble(problem);
      for (const button of this.buttons) button.disabled = false;
    }
  }
}

function jobWords(job) {
  const model = job.model ? ` ${job.model}` : "";
  const whose = job.persona_name ? ` of ${job.persona_name}` : "";
  const files = job.documents ? `, ${plural(job.documents, "file")}` : "";
  return `${taskWords(job.task)}${model}${whose}${files}`;
}
