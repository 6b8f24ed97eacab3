// The conversation: which turns stand there, in what order, and where the scroll is.

import { arrange, byId, copyWithTick, h, icon, iconButton } from "../dom.js";
import { keepPreference, preference } from "../keep.js";
import { TurnView } from "./turn.js";
import { welcome } from "./welcome.js";

const TURNS_SHOWN = 120;
const BOTTOM_PX = 64;

export class ThreadView {
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.scroll = byId("thread-scroll");
    this.thread = byId("thread");
    this.jump = byId("jump");
    this.views = new Map();
    this.limit = TURNS_SHOWN;
    this.pinned = true;
    this.dirty = new Set();
    this.scroll.addEventListener("scroll", () => this.#scrolled(), { passive: true });
    this.jump.addEventListener("click", () => this.toEnd(true));
    new ResizeObserver(() => this.#settle()).observe(this.scroll);
    new ResizeObserver(() => this.#settle()).observe(this.thread);
    store.on("view", () => this.#viewChanged());
    store.on("thread", () => this.draw());
    store.on("personas", () => this.draw());
    store.on("status", () => this.#statusChanged());
    store.on("run", ({ run, change }) => this.#runChanged(run, change));
    setInterval(() => this.views.get(store.view.entry?.key)?.tick(), 1000);
  }

  #viewChanged() {
    if (this.shownView === this.store.view) return;
    this.shownView = this.store.view;
    this.views.clear();
    this.limit = TURNS_SHOWN;
    this.pinned = true;
  }

  draw() {
    const { store } = this;
    const turns = store.turns();
    this.thread.setAttribute("aria-busy", String(store.view.loading));
    if (store.view.problem) this.#problem(store.view.problem);
    else if (!store.view.sessionId && !turns.length) arrange(this.thread, [welcome(store), this.#notice()].filter(Boolean));
    else this.#drawTurns(turns);
    this.#settle();
  }

  #drawTurns(turns) {
    const from = Math.max(0, turns.length - this.limit);
    const shown = turns.slice(from);
    const idle = !this.store.activeRun && !this.store.view.entry;
    const asked = turns.findIndex((turn) => turn.role === "user");
    const nodes = shown.map((turn, index) => {
      const newest = index === shown.length - 1;
      const view = this.#viewOf(turn);
      view.regenerable = newest && idle && asked >= 0;
      view.unanswered = newest && idle && turn.role === "user" && Boolean(turn.message);
      view.update(turn, newest);
      return view.element;
    });
    const kept = new Set(shown.map((turn) => turn.key));
    for (const key of this.views.keys()) if (!kept.has(key)) this.views.delete(key);
    arrange(this.thread, [this.#notice(), from > 0 ? this.#earlier() : null, ...nodes].filter(Boolean));
  }

  #viewOf(turn) {
    let view = this.views.get(turn.key);
    if (!view) {
      view = new TurnView(turn, this.store, this.actions);
      this.views.set(turn.key, view);
    }
    return view;
  }

  #earlier() {
    this.earlier ??= h("button", { type: "button", class: "button small earlier", onclick: () => this.#showEarlier() }, "Show earlier messages");
    return this.earlier;
  }

  #showEarlier() {
    const fromEnd = this.scroll.scrollHeight - this.scroll.scrollTop;
    this.limit += TURNS_SHOWN;
    this.pinned = false;
    this.draw();
    this.scroll.scrollTop = this.scroll.scrollHeight - fromEnd;
  }

  #problem(problem) {
    const { gone } = problem;
    const deleted = gone && this.store.view.session;
    const title = deleted ? "This chat was deleted" : gone ? "This chat is not here" : "This chat cannot be shown just now";
    const words = deleted ? "Somebody deleted it in another window or on another device. What you had written comes along into a new chat." : problem.message;
    const box = h(
      "div",
      { class: "welcome" },
      h("h2", {}, title),
      h("p", {}, words),
      gone
        ? h("button", { type: "button", class: "button primary", onclick: () => this.actions.newChatInstead() }, "Start a new chat")
        : h("button", { type: "button", class: "button primary", onclick: () => this.store.reload() }, "Try again"),
    );
    arrange(this.thread, [box]);
  }

  /** Plain words about a demo-size model, with the one command that brings a better one. */
  #notice() {
    const model = this.store.status?.model;
    if (!model?.demo || preference("notice-closed", "") === model.name) return null;
    if (this.noticeFor === model.name) return this.noticeBox;
    const close = () => {
      keepPreference("notice-closed", model.name);
      this.noticeBox.remove();
    };
    const text = h("p", {}, h("strong", {}, model.title || model.name), " is a demo-size model: quick to try, often wrong.");
    if (model.better) text.append(" For better answers run ", h("code", {}, model.better.command));
    this.noticeFor = model.name;
    this.noticeBox = h(
      "aside",
      { class: "notice", "aria-label": "About the model" },
      icon("info"),
      text,
      model.better ? iconButton("copy", "Copy the command", (event) => copyWithTick(event.currentTarget, model.better.command), { class: "small" }) : null,
      iconButton("close", "Close this notice", close, { class: "small" }),
    );
    return this.noticeBox;
  }

  #statusChanged() {
    if (this.store.status?.model?.name !== this.noticeFor) this.draw();
  }

  #runChanged(run, change) {
    if (run.sessionId !== this.store.view.sessionId) return;
    if (change !== "appended" || !this.views.has(`run:${run.id}`)) {
      this.draw();
      return;
    }
    if (!this.dirty.size) requestAnimationFrame(() => this.#flush());
    this.dirty.add(run);
  }

  /** All the words that came since the last frame at once. */
  #flush() {
    for (const run of this.dirty) this.views.get(`run:${run.id}`)?.grow(run);
    this.dirty.clear();
    this.#settle();
  }

  // ---- scroll ----

  #scrolled() {
    const below = this.scroll.scrollHeight - this.scroll.scrollTop - this.scroll.clientHeight;
    this.pinned = below < BOTTOM_PX;
    this.jump.hidden = this.pinned;
  }

  #settle() {
    if (this.pinned && this.store.turns().length) this.scroll.scrollTop = this.scroll.scrollHeight;
    else if (!this.pinned) this.#scrolled();
  }

  toEnd(focus = false) {
    this.pinned = true;
    this.jump.hidden = true;
    this.#settle();
    if (focus) byId("composer-input").focus();
  }
}
