// The head of the chat: whose it is, what it is called, rename, delete.

import { avatar, byId, h, iconButton } from "../dom.js";

const TITLE_CHARS_MAX = 80;

export class Header {
  /** `actions`: deleteSession(session). */
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.title = byId("chat-title");
    this.tools = byId("chat-tools");
    this.renaming = false;
    for (const topic of ["view", "personas", "sessions"]) store.on(topic, () => this.draw());
  }

  draw() {
    if (this.renaming && this.shownId === this.store.view.sessionId) return;
    this.renaming = false;
    this.shownId = this.store.view.sessionId;
    const { session, sessionId, problem } = this.store.view;
    const persona = this.store.current;
    const listed = this.store.sessions.find((other) => other.id === sessionId);
    const title = sessionId ? listed?.title || session?.title || "New chat" : "New chat";
    document.title = sessionId ? `${title} · Coral Reef` : "Coral Reef";
    const about = persona ? [persona.name, persona.mood && `feels ${persona.mood}`].filter(Boolean).join(" · ") : this.store.orphaned ? "Its persona was deleted" : "";
    this.title.replaceChildren(
      ...[persona && avatar(persona), h("div", { class: "heading-text" }, h("h2", {}, title), about && h("p", {}, about))].filter(Boolean),
    );
    this.tools.replaceChildren(
      ...(sessionId && session && !problem
        ? [iconButton("pencil", "Rename this chat", () => this.#rename(title)), iconButton("trash", "Delete this chat", () => this.actions.deleteSession(sessionId, title))]
        : []),
    );
  }

  #rename(title) {
    this.renaming = true;
    const field = h("input", { type: "text", value: title, maxLength: TITLE_CHARS_MAX, "aria-label": "Title of this chat" });
    const end = async (keep) => {
      if (!this.renaming) return;
      this.renaming = false;
      const text = field.value.trim();
      if (keep && text && text !== title) await this.store.rename(text).catch((problem) => this.store.trouble(problem));
      this.draw();
      if (!keep) this.tools.querySelector("button")?.focus();
    };
    field.addEventListener("keydown", (event) => {
      if (event.key === "Enter") end(true);
      if (event.key === "Escape") {
        event.stopPropagation();
        end(false);
      }
    });
    field.addEventListener("blur", () => end(true));
    this.title.replaceChildren(field);
    field.focus();
    field.select();
  }
}
