// The left column: personas, chats with search, the state of the reef; on a phone a drawer.

import { avatar, byId, h, iconButton } from "../dom.js";
import { unsentSessions } from "../keep.js";
import { arrowKeys } from "./listkeys.js";
import { dayLabel } from "./words.js";

const SEARCH_AFTER_MS = 180;
const PERSONAS_WAITING = 4;
const SESSIONS_WAITING = 3;

export class Sidebar {
  /** `actions`: newChat(personaId), openSession(id), editPersona(persona | null). */
  constructor(store, actions) {
    this.store = store;
    this.actions = actions;
    this.personaList = byId("persona-list");
    this.sessionList = byId("session-list");
    this.search = byId("search");
    this.reachPersona = arrowKeys(this.personaList, ".persona-pick");
    this.reachSession = arrowKeys(this.sessionList, ".session-row");
    byId("persona-new").addEventListener("click", () => actions.editPersona(null));
    byId("chat-new").addEventListener("click", () => this.#leaveFor(() => actions.newChat()));
    this.search.addEventListener("input", () => this.#typed());
    this.search.addEventListener("keydown", (event) => this.#searchKey(event));
    store.on("personas", () => {
      this.#drawPersonas();
      this.#drawSessions();
    });
    store.on("sessions", () => this.#drawSessions());
    store.on("view", () => {
      this.#drawPersonas();
      this.#drawSessions();
    });
    store.on("run", ({ change }) => change === "final" && this.#drawSessions());
    store.on("status", () => this.#drawStatus());
    this.#drawer();
  }

  // ---- personas ----

  #drawPersonas() {
    const focused = document.activeElement?.dataset?.personaPick;
    const current = this.store.current?.id;
    const rows = this.store.personas.map((persona) => this.#personaRow(persona, persona.id === current));
    if (!rows.length && this.store.personasFetched.state !== "here") rows.push(...this.#notHere(this.store.personasFetched, "Personas", PERSONAS_WAITING).map((part) => h("li", {}, part)));
    this.personaList.replaceChildren(...rows);
    if (focused) this.personaList.querySelector(`[data-persona-pick="${CSS.escape(focused)}"]`)?.focus();
    this.reachPersona();
  }

  #personaRow(persona, current) {
    const pick = h(
      "button",
      { type: "button", class: "persona-pick", "aria-current": current ? "true" : null, dataset: { personaPick: persona.id }, onclick: () => this.#leaveFor(() => this.actions.newChat(persona.id)) },
      avatar(persona),
      h("span", { class: "persona-text" }, h("span", { class: "persona-name" }, persona.name), h("span", { class: "persona-mood" }, persona.mood ? `feels ${persona.mood}` : persona.description)),
    );
    const edit = iconButton("pencil", `Edit ${persona.name}`, () => this.actions.editPersona(persona), { class: "small persona-edit" });
    return h("li", { class: "persona-row" }, pick, edit);
  }

  // ---- chats ----

  #typed() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.store.loadSessions(this.search.value.trim()).catch((problem) => this.store.trouble(problem)), SEARCH_AFTER_MS);
  }

  #searchKey(event) {
    if (event.key === "ArrowDown") {
      event.preventDefault();
      this.sessionList.querySelector(".session-row")?.focus();
    } else if (event.key === "Escape") {
      event.stopPropagation();
      if (this.search.value) {
        this.search.value = "";
        this.#typed();
      } else byId("composer-input").focus();
    }
  }

  #drawSessions() {
    const focused = document.activeElement?.dataset?.sessionId;
    const atEarlier = this.earlier && document.activeElement === this.earlier;
    const { sessions } = this.store;
    const { query, next } = this.store.chats;
    const unsent = unsentSessions();
    const parts = [];
    let day = "";
    let list = null;
    for (const session of sessions) {
      const label = dayLabel(session.updated_at);
      if (label !== day) {
        list = h("ul", { "aria-label": label });
        parts.push(h("h3", { class: "session-day" }, label), list);
        day = label;
      }
      list.append(h("li", {}, this.#sessionRow(session, unsent.has(session.id))));
    }
    if (!parts.length && this.store.sessionsFetched.state !== "here") parts.push(...this.#notHere(this.store.sessionsFetched, "Chats", SESSIONS_WAITING));
    else if (!parts.length) parts.push(h("p", { class: "session-none" }, query ? `No chat mentions “${query}”.` : "Your chats will stand here."));
    if (next) parts.push(this.#earlier());
    this.sessionList.replaceChildren(...parts);
    if (atEarlier && this.earlier.isConnected) this.earlier.focus();
    if (focused) this.sessionList.querySelector(`[data-session-id="${CSS.escape(focused)}"]`)?.focus();
    this.reachSession();
  }

  #earlier() {
    this.earlier ??= h("button", { type: "button", class: "button small earlier", onclick: () => this.#showEarlier() }, "Show earlier chats");
    return this.earlier;
  }

  /** The focus goes to the first chat that came: from there the arrows go on. */
  async #showEarlier() {
    this.earlier.setAttribute("aria-busy", "true");
    try {
      const come = await this.store.loadEarlierSessions();
      if (!come.length) return;
      this.sessionList.querySelector(`[data-session-id="${CSS.escape(come[0].id)}"]`)?.focus();
      this.store.say(`${come.length} earlier ${come.length === 1 ? "chat" : "chats"}.`);
    } catch (problem) {
      this.store.trouble(problem);
    } finally {
      this.earlier.removeAttribute("aria-busy");
    }
  }

  /** A list that is on its way, or that cannot be had just now. */
  #notHere(list, name, count) {
    if (list.state === "loading") return Array.from({ length: count }, () => h("span", { class: "row-waiting", "aria-hidden": "true" }));
    const again = h("button", { type: "button", class: "text-button", onclick: () => list.again() }, "Try again");
    return [h("p", { class: "session-none" }, `${name} cannot be shown just now. `, again)];
  }

  #sessionRow(session, unsent) {
    const persona = this.store.persona(session.persona_id);
    const open = (event) => {
      if (event.metaKey || event.ctrlKey || event.shiftKey || event.button) return;
      event.preventDefault();
      this.#leaveFor(() => this.actions.openSession(session.id));
    };
    return h(
      "a",
      {
        class: "session-row",
        href: `/chat/${encodeURIComponent(session.id)}`,
        "aria-current": session.id === this.store.view.sessionId ? "page" : null,
        dataset: { sessionId: session.id },
        onclick: open,
      },
      avatar(persona, "small"),
      h("span", { class: "session-title" }, session.title || "New chat"),
      this.#sessionMark(session, unsent),
    );
  }

  #sessionMark(session, unsent) {
    const [kind, label] = unsent
      ? ["session-unsent", "A message waits to be sent"]
      : session.active_run_id
        ? ["session-live", "A reply is being written"]
        : ["", ""];
    return kind ? h("span", { class: kind, role: "img", "aria-label": label, title: label }) : h("span");
  }

  // ---- the reef in a line ----

  #drawStatus() {
    const { status } = this.store;
    const devices = status?.pools?.find((pool) => pool.name === "chat")?.devices ?? [];
    const ready = devices.filter((device) => device.state === "ready" || device.state === "busy").length;
    const loading = devices.find((device) => device.state === "loading");
    let text = ready ? `${ready} of ${devices.length} devices ready` : "No chat device is ready";
    let state = ready ? "ready" : "failed";
    if (!status) [text, state] = ["The reef does not answer", "down"];
    else if (!devices.length) [text, state] = ["No chat device", "failed"];
    else if (!ready && loading) [text, state] = [`Loading the model, ${Math.round((loading.progress ?? 0) * 100)} %`, "loading"];
    else if (devices.length === 1 && ready) text = "Ready";
    // what the live line says of a reply is newer than the last status
    const { held } = this.store.runs;
    if (status && held) [text, state] = [held.split(/[.;]/)[0], "loading"];
    byId("foot-status-text").textContent = text;
    byId("foot-status").querySelector(".dot").dataset.state = state;
    byId("foot-status").setAttribute("aria-label", `Status: ${text}`);
  }

  // ---- drawer ----

  #drawer() {
    this.element = byId("sidebar");
    this.scrim = byId("scrim");
    this.opener = byId("drawer-open");
    this.narrow = matchMedia("(width < 800px)");
    this.opener.addEventListener("click", () => this.open());
    byId("drawer-close").addEventListener("click", () => this.close());
    this.scrim.addEventListener("click", () => this.close());
    this.narrow.addEventListener("change", () => this.close(false));
  }

  get isOpen() {
    return this.element.classList.contains("open");
  }

  open() {
    if (!this.narrow.matches) return;
    this.element.classList.add("open");
    this.scrim.hidden = false;
    byId("main").inert = true;
    this.opener.setAttribute("aria-expanded", "true");
    byId("drawer-close").focus();
  }

  close(focus = true) {
    if (!this.isOpen) return;
    this.element.classList.remove("open");
    this.scrim.hidden = true;
    byId("main").inert = false;
    this.opener.setAttribute("aria-expanded", "false");
    if (focus) this.opener.focus();
  }

  #leaveFor(action) {
    this.close(false);
    action();
  }

  focusSearch() {
    this.open();
    this.search.focus();
    this.search.select();
  }
}
