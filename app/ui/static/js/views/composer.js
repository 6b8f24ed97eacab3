// The message field: sends, stops, edits; keeps a draft per chat.

import { byId } from "../dom.js";
import { draft, keepDraft } from "../keep.js";

const CHARS_MAX = 32_000;
const CHARS_TELL = 30_000;
const NOTE_MS = 8_000;
const HINT = "Enter sends, Shift+Enter makes a new line.";

export class Composer {
  /** `actions`: newChatInstead(). */
  constructor(store, thread, actions) {
    this.store = store;
    this.thread = thread;
    this.field = byId("composer-input");
    this.send = byId("send");
    this.stop = byId("stop");
    this.note = byId("composer-note");
    this.hint = byId("composer-hint");
    this.editing = null;
    this.sending = false;
    byId("composer").addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    byId("composer-edit-cancel").addEventListener("click", () => this.cancelEdit());
    byId("composer-closed-new").addEventListener("click", () => actions.newChatInstead());
    this.stop.addEventListener("click", () => {
      this.field.focus();
      this.store.stop();
    });
    this.field.addEventListener("input", () => this.#changed());
    this.field.addEventListener("keydown", (event) => this.#key(event));
    store.on("view", () => this.#viewChanged());
    store.on("begun", () => this.#begun());
    store.on("composer", () => this.draw());
    store.on("thread", () => this.draw());
    store.on("personas", () => this.draw());
    store.on("run", ({ change }) => change !== "appended" && this.draw());
    store.on("trouble", (problem) => this.tell(problem));
  }

  #viewChanged() {
    if (this.place === this.store.place) {
      this.draw();
      return;
    }
    this.editing = null;
    this.place = this.store.place;
    this.field.value = draft(this.place);
    this.#fit();
    this.draw();
  }

  /** The new chat became a session while its first message was sent: what is typed since belongs to it. */
  #begun() {
    keepDraft(this.place, "");
    this.place = this.store.place;
    keepDraft(this.place, this.field.value);
  }

  #changed() {
    if (!this.editing) keepDraft(this.place, this.field.value);
    this.#fit();
    this.draw();
  }

  #fit() {
    this.field.style.height = "auto";
    this.field.style.height = `${this.field.scrollHeight}px`;
  }

  #key(event) {
    if (event.isComposing) return;
    if (event.key === "Enter" && !event.shiftKey && !event.altKey) {
      event.preventDefault();
      this.submit();
    } else if (event.key === "ArrowUp" && !this.field.value && !event.shiftKey) {
      const last = this.store.view.messages.findLast((message) => message.role === "user");
      if (last && !this.store.activeRun) {
        event.preventDefault();
        this.edit(last);
      }
    }
  }

  /** Answers whether there was an edit to leave. */
  cancelEdit() {
    if (!this.editing) return false;
    this.editing = null;
    this.#set(draft(this.place));
    this.field.focus();
    return true;
  }

  edit(message) {
    this.editing = message;
    this.#set(message.content);
    this.field.focus();
    this.field.setSelectionRange(this.field.value.length, this.field.value.length);
  }

  /** What was typed for this chat, to be taken elsewhere. */
  takeDraft() {
    const text = draft(this.place);
    keepDraft(this.place, "");
    this.editing = null;
    this.#set("");
    return text;
  }

  /** Put a text back that could not be sent. */
  putBack(text) {
    this.#set(this.field.value ? `${text}\n${this.field.value}` : text);
    keepDraft(this.place, this.field.value);
    this.field.focus();
  }

  #set(text) {
    this.field.value = text;
    this.#fit();
    this.draw();
  }

  async submit() {
    const text = this.field.value.trim();
    if (!text || text.length > CHARS_MAX || this.sending) return;
    if (this.store.activeRun) {
      this.tell({ message: "Wait for the reply to end, or stop it with Esc." });
      return;
    }
    if (this.editing) await this.#sendEdit(text);
    else if (this.store.view.entry) this.tell({ message: "A message of yours waits above: send it or take it back first." });
    else if (this.store.send(text)) {
      keepDraft(this.place, "");
      this.#set("");
      this.thread.toEnd();
    }
  }

  async #sendEdit(text) {
    this.sending = true;
    this.draw();
    try {
      await this.store.edit(this.editing, text);
      this.editing = null;
      this.#set(draft(this.place));
      this.thread.toEnd();
    } catch (problem) {
      this.tell(problem);
    } finally {
      this.sending = false;
      this.draw();
    }
  }

  /** A sentence under the field; with a retry time it counts down. */
  tell(problem) {
    clearInterval(this.noteTimer);
    const until = Date.now() + (problem.retryAfterS ? problem.retryAfterS * 1000 : NOTE_MS);
    const show = () => {
      const left = Math.ceil((until - Date.now()) / 1000);
      this.trouble = left > 0 ? `${problem.message}${problem.retryAfterS ? ` Try again in ${left} s.` : ""}` : "";
      if (!this.trouble) clearInterval(this.noteTimer);
      this.draw();
    };
    this.store.say(problem.message, true);
    this.noteTimer = setInterval(show, 1000);
    show();
  }

  draw() {
    const { store } = this;
    const run = store.activeRun;
    const length = this.field.value.trim().length;
    const persona = store.current;
    const closed = store.orphaned && !store.view.problem;
    byId("composer-edit").hidden = !this.editing;
    byId("composer-closed").hidden = !closed;
    byId("composer-row").hidden = closed;
    this.hint.hidden = closed;
    this.field.placeholder = persona ? `Message ${persona.name}` : "Message";
    this.field.disabled = Boolean(store.view.problem) || !persona;
    this.send.hidden = Boolean(run);
    this.stop.hidden = !run;
    this.stop.disabled = Boolean(run?.stopping);
    this.send.disabled = !length || length > CHARS_MAX || this.sending || Boolean(store.view.entry) || !persona;
    const count = length > CHARS_TELL ? `${length.toLocaleString()} of ${CHARS_MAX.toLocaleString()} characters` : "";
    this.note.textContent = this.trouble || count || HINT;
    this.hint.classList.toggle("urgent", Boolean(this.trouble) || length > CHARS_MAX);
    this.hint.classList.toggle("telling", Boolean(this.trouble || count));
  }
}
