// One turn of the conversation: what a person said, or a reply, waiting, growing or told.

import { arrange, avatar, copyWithTick, h, htmlFragment, iconButton } from "../dom.js";
import { linkMarks, sourcesList } from "./citations.js";
import { clock, figures, personaName, phaseWords } from "./words.js";

function waitingWords(problem) {
  return problem.status === 429 ? "Every device is busy and the queue is full." : problem.message;
}

export class TurnView {
  /** `actions`: edit(message), regenerate(message), goOn(message), editLast(), editPersona(persona), askAgain(turn), sendAgain(), takeBack(). */
  constructor(turn, store, actions) {
    this.store = store;
    this.actions = actions;
    this.user = turn.role === "user";
    this.name = h("h3");
    this.time = h("time");
    this.phase = h("div", { class: "phase" });
    this.words = h("div", { class: "words" });
    this.note = h("div", { class: "note" });
    this.foot = h("div", { class: "turn-foot" });
    this.main = h("div", { class: "turn-main" });
    this.face = null;
    this.sources = null;
    this.element = h("article", { class: `turn ${turn.role}` });
    this.shown = {};
    this.update(turn, false);
  }

  update(turn, newest) {
    this.turn = turn;
    const { message, run, entry } = turn;
    const persona = this.store.persona(message?.persona_id || run?.personaId || this.store.view.personaId);
    const name = this.user ? "You" : personaName(persona, this.store);
    this.personaName = name;
    this.name.textContent = name;
    this.time.textContent = message ? clock(message.created_at) : "";
    this.element.classList.toggle("newest", newest);
    this.element.classList.toggle("unsent", Boolean(entry?.problem && entry.state !== "sending"));
    if (message) this.element.dataset.messageId = message.id;
    if (run) this.element.dataset.runId = run.id;
    if (!this.user) this.#showFace(persona);
    this.#showText();
    this.#showFoot(newest);
    arrange(this.main, [h("header", { class: "turn-head" }, this.name, this.time), ...this.#body()]);
    arrange(this.element, this.user ? [this.main] : [this.face, this.main]);
  }

  #body() {
    const { run, message, entry } = this.turn;
    const writing = Boolean(run && !run.final);
    this.note.replaceChildren(...this.#noteParts().filter(Boolean));
    this.note.classList.toggle("trouble", this.trouble);
    return [
      writing && !run.text ? this.phase : null,
      run?.text || message?.content || entry ? this.words : null,
      writing ? null : this.sources,
      this.note.childNodes.length ? this.note : null,
      entry ? null : this.foot,
    ].filter(Boolean);
  }

  #showFace(persona) {
    const identity = `${persona?.avatar}|${persona?.color}|${persona?.name}`;
    if (this.face && this.shown.face === identity) return;
    this.shown.face = identity;
    this.face?.remove();
    this.face = avatar(persona, "medium");
  }

  #showText() {
    const { message, run, entry } = this.turn;
    if (this.user) {
      const text = message?.content ?? entry.text;
      if (this.words.textContent !== text) this.words.textContent = text;
      return;
    }
    if (run && (!run.final || !message)) {
      this.#showRun(run);
      return;
    }
    if (this.shown.html === message.html && this.shown.message === message.id) return;
    this.shown = { ...this.shown, html: message.html, message: message.id };
    this.words.className = message.html ? "words" : "words plain";
    if (message.html) {
      this.words.replaceChildren(htmlFragment(message.html));
      linkMarks(this.words, message.citations);
    } else this.#plain(message.content);
    this.sources = sourcesList(message.citations);
  }

  /** A reply in the making: plain text in paragraphs set as the finished ones will be, so nothing jumps at the end. */
  #showRun(run) {
    this.words.className = `words plain${run.final ? "" : " writing"}`;
    if (!run.text) {
      this.phase.replaceChildren(h("span", { class: "bubbles", "aria-hidden": "true" }, h("i"), h("i"), h("i")), h("span", {}, phaseWords(run, this.personaName)));
      this.words.replaceChildren();
      this.told = "";
      return;
    }
    if (this.told && run.text.startsWith(this.told)) this.#grow(run.text.slice(this.told.length));
    else this.#plain(run.text);
    this.told = run.text;
  }

  #plain(text) {
    this.words.replaceChildren();
    this.told = "";
    this.#grow(text);
    this.told = text;
  }

  #grow(text) {
    let last = this.words.lastElementChild;
    // a break that arrived in two pieces ("\n" + "\n") is still a break
    const held = last ? /\n*$/.exec(last.textContent)[0] : "";
    if (held && last) {
      last.textContent = last.textContent.slice(0, last.textContent.length - held.length);
      text = held + text;
    }
    const [first, ...rest] = text.split(/\n[ \t]*\n\s*/);
    if (!last) {
      last = h("p");
      this.words.append(last);
    }
    if (first) last.append(this.words.firstChild === last && !last.textContent ? first.trimStart() : first);
    for (const paragraph of rest) this.words.append(h("p", {}, paragraph));
    last.normalize();
  }

  /** The cheap path while words arrive; everything else goes through update(). */
  grow(run) {
    if (run.final) return; // its end came within the same frame and has been drawn
    const first = !this.words.isConnected;
    if (first || run.restarted !== this.shown.restarted) {
      this.shown.restarted = run.restarted;
      this.update(this.turn, this.element.classList.contains("newest"));
      return;
    }
    this.#showRun(run);
  }

  #noteParts() {
    const { message, run, entry } = this.turn;
    this.trouble = false;
    if (entry) return this.#entryNote(entry);
    if (run?.phase === "error") {
      this.trouble = true;
      return [h("span", {}, run.error.message), this.#remedy(run.error.code)];
    }
    if (run && !run.final) {
      const told = run.restarted && run.text ? [h("span", {}, "The device restarted; the answer began again.")] : [];
      if (run.held && run.text) told.push(h("span", {}, run.held));
      if (run.notice) told.push(h("span", {}, run.notice));
      return run.stopping && run.text ? [h("span", {}, "Stopping…")] : told;
    }
    if (run?.phase === "stopped" && !run.text && !message) return [h("span", {}, "Stopped before the first word."), this.#again()];
    if (message?.state === "stopped") return [h("span", {}, "Stopped.")];
    if (message?.state === "failed") {
      this.trouble = true;
      return [h("span", {}, message.content ? "The reply broke off." : "No reply could be written."), this.#again()];
    }
    const notice = message?.notice ?? run?.notice;
    const told = notice ? [h("span", {}, notice)] : [];
    if (message?.finish_reason === "length") told.push(...this.#cutNote(message));
    if (told.length) return told;
    if (this.unanswered) return [h("span", {}, "No reply was written."), this.#again()];
    return [];
  }

  /** It may end in the middle of a sentence, so it says why. */
  #cutNote(message) {
    const tokens = message.usage?.completion;
    const words = `The reply reached its limit${tokens ? ` of ${tokens.toLocaleString("en")} tokens` : ""}.`;
    const more = this.#button("Continue", () => this.actions.goOn(message));
    return [h("span", {}, words), this.regenerable && !this.store.orphaned ? more : null].filter(Boolean);
  }

  /** What can help: the same words again do not where they are too many. */
  #remedy(code) {
    const persona = this.store.persona(this.turn.run.personaId);
    if (code === "too_long") return this.#button("Edit", () => this.actions.editLast());
    if (code === "instructions_too_long" && persona) return this.#button(`Edit ${persona.name}`, () => this.actions.editPersona(persona));
    return this.#again();
  }

  /** Where nobody answers any more, nothing is offered. */
  #again() {
    if (this.store.orphaned) return null;
    return this.#button("Try again", () => this.actions.askAgain(this.turn));
  }

  #button(label, onclick) {
    return h("button", { type: "button", class: "text-button", onclick }, label);
  }

  #entryNote(entry) {
    if (entry.state === "sending" || entry.state === "kept") return [];
    const { problem } = entry;
    this.trouble = entry.state === "failed";
    this.countdown = entry.state === "waiting" ? h("span", { class: "countdown" }) : null;
    this.tick();
    return [
      h("span", {}, entry.state === "failed" ? `Not sent. ${problem.message}` : waitingWords(problem), " "),
      this.countdown,
      this.#button(entry.state === "waiting" ? "Try now" : "Send again", this.actions.sendAgain),
      this.#button("Take back", this.actions.takeBack),
    ].filter(Boolean);
  }

  /** Once a second while a message waits to be sent again. */
  tick() {
    const { entry } = this.turn;
    if (!entry || !this.countdown) return;
    const left = Math.max(0, Math.ceil((entry.retryAt - Date.now()) / 1000));
    this.countdown.textContent = left ? `Trying again in ${left} s.` : "Trying again…";
  }

  #showFoot(newest) {
    const { message, run } = this.turn;
    if (!message || (run && !run.final)) {
      this.shown.foot = "";
      this.foot.replaceChildren();
      return;
    }
    const closed = this.store.orphaned;
    const regenerable = this.regenerable && !closed && this.store.persona(message.persona_id);
    const identity = [message.id, newest, Boolean(regenerable), closed, run?.device].join("|");
    if (this.shown.foot === identity) return;
    this.shown.foot = identity;
    const told = this.user ? "" : figures(message, run);
    arrange(
      this.foot,
      [
        iconButton("copy", "Copy", (event) => copyWithTick(event.currentTarget, message.content), { class: "small" }),
        this.user && !closed ? iconButton("pencil", "Edit and send again", () => this.actions.edit(message), { class: "small edit" }) : null,
        !this.user && regenerable ? iconButton("again", "Write this reply anew", () => this.actions.regenerate(message), { class: "small regenerate" }) : null,
        told ? h("span", { class: "figures" }, told) : null,
      ].filter(Boolean),
    );
  }
}
