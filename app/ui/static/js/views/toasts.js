// The answer to what a person did, at the foot of the window: seen wherever the page is scrolled to, and over the page,
// which does not move. Good news goes by itself, though not while somebody points at it or has the keyboard in it; what
// went wrong stays until it is closed. A screen reader is told by the announcer, so this is no live region of its own.

import { byId, h, iconButton, icon } from "../dom.js";

const STAYS_MS = 12_000;
const SHOWN_MAX = 3;

export class Toasts {
  constructor(bus) {
    this.list = byId("toasts");
    this.shown = [];
    bus.on("answer", (words) => this.#show(words));
    bus.on("trouble", (problem) => this.#show(problem.message, true));
    document.addEventListener("keydown", (event) => this.#key(event));
  }

  #show(words, bad = false) {
    const same = this.shown.find((toast) => toast.words === words);
    if (same) this.#close(same);
    if (this.shown.length >= SHOWN_MAX) this.#close(this.shown[0]);
    const toast = { words, from: document.activeElement };
    toast.element = h(
      "li",
      { class: bad ? "toast bad" : "toast" },
      icon(bad ? "info" : "check"),
      h("p", {}, words),
      iconButton("close", "Close this message", () => this.#close(toast), { class: "small" }),
    );
    this.shown.push(toast);
    this.list.append(toast.element);
    if (!bad) this.#goesByItself(toast);
  }

  #goesByItself(toast) {
    const leave = () => {
      toast.timer = setTimeout(() => this.#close(toast), STAYS_MS);
    };
    for (const event of ["pointerenter", "focusin"]) toast.element.addEventListener(event, () => clearTimeout(toast.timer));
    for (const event of ["pointerleave", "focusout"]) {
      toast.element.addEventListener(event, () => {
        clearTimeout(toast.timer);
        leave();
      });
    }
    leave();
  }

  /** The keyboard goes back to where it was when this was shown. */
  #close(toast) {
    clearTimeout(toast.timer);
    const held = toast.element.contains(document.activeElement);
    toast.element.remove();
    this.shown = this.shown.filter((other) => other !== toast);
    if (held && toast.from?.isConnected) toast.from.focus();
  }

  /** Escape closes the newest, where nothing else has a use for it. */
  #key(event) {
    if (event.key !== "Escape" || event.defaultPrevented || document.querySelector("dialog[open]")) return;
    if (event.target.matches("input") && event.target.value) return;
    const newest = this.shown.at(-1);
    if (newest) this.#close(newest);
  }
}
