// "Ask the documents": a question, and the passages nearest to it with the way to each.

import { byId, h, icon } from "../dom.js";
import { keepPreference, preference } from "../keep.js";
import * as calls from "./calls.js";
import { SHARED } from "./board.js";
import { pageWords, plural, splitName } from "./words.js";

const PASSAGES = 8;
const EXCERPT_CHARS = 420;
const SLOW_AFTER_MS = 300;

export class Ask {
  constructor(board) {
    this.board = board;
    this.form = byId("ask");
    this.field = byId("ask-question");
    this.who = byId("ask-who");
    this.note = byId("ask-note");
    this.results = byId("ask-results");
    this.close = byId("ask-close");
    this.asked = 0;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#ask();
    });
    this.field.addEventListener("keydown", (event) => event.key === "Escape" && this.#clear());
    this.close.addEventListener("click", () => this.#clear());
    this.who.addEventListener("change", () => {
      keepPreference("ask-who", this.who.value);
      if (!this.results.hidden) this.#ask();
    });
    board.on("personas", () => this.#drawWho());
  }

  #drawWho() {
    const options = [[SHARED, "Shared documents"], ...this.board.personas.map((persona) => [persona.id, `What ${persona.name} reads`])];
    this.who.replaceChildren(...options.map(([value, words]) => h("option", { value }, words)));
    const kept = preference("ask-who", SHARED);
    this.who.value = options.some(([value]) => value === kept) ? kept : SHARED;
  }

  #clear() {
    this.asked += 1;
    this.field.value = "";
    this.note.textContent = "";
    this.results.hidden = this.close.hidden = true;
    this.field.focus();
  }

  async #ask() {
    const query = this.field.value.trim();
    if (!query) return;
    const asked = (this.asked += 1);
    const persona = this.who.value === SHARED ? {} : { persona_id: this.who.value };
    const slow = setTimeout(() => (this.note.textContent = "Searching…"), SLOW_AFTER_MS);
    this.form.setAttribute("aria-busy", "true");
    try {
      const answer = await calls.search({ query, k: PASSAGES, ...persona });
      if (asked === this.asked) this.#show(answer);
    } catch (problem) {
      if (asked === this.asked) this.#fail(problem);
    } finally {
      clearTimeout(slow);
      if (asked === this.asked) this.form.removeAttribute("aria-busy");
    }
  }

  #show(answer) {
    const { results } = answer;
    const words = results.length ? `${plural(results.length, "passage")} in ${took(answer.total_s)}` : "Nothing in these documents is near this question.";
    this.note.className = "ask-note";
    this.note.textContent = words;
    this.results.replaceChildren(...results.map(passage));
    this.results.hidden = !results.length;
    this.close.hidden = false;
    this.board.say(words);
  }

  #fail(problem) {
    this.note.className = "ask-note trouble";
    this.note.textContent = `${problem.message}${problem.busy ? " Ask again in a moment." : ""}`;
    this.close.hidden = false;
    this.board.say(problem.message, true);
  }
}

const took = (seconds) => (seconds < 1 ? `${Math.max(1, Math.round(seconds * 1000))} ms` : `${seconds.toFixed(1)} s`);

function passage(found) {
  const [, name] = splitName(found.name);
  const title = found.title || name;
  const headings = found.headings.filter((heading) => heading !== found.title);
  const place = [pageWords(found.page_first, found.page_last), headings.join(" › ")].filter(Boolean).join(" · ");
  const near = found.similarity === null ? "" : `Similarity ${found.similarity.toFixed(2)}`;
  const text = plain(found.text);
  return h(
    "li",
    { class: "passage-found" },
    h("a", { href: calls.pageOf(found.document_id, found.chunk_id) }, icon("document"), h("span", {}, title)),
    h("p", { class: "passage-place" }, [place, name !== title ? name : ""].filter(Boolean).join(" · ")),
    h("p", { class: "passage-text" }, text.length > EXCERPT_CHARS ? `${text.slice(0, EXCERPT_CHARS)}…` : text),
    h("p", { class: "passage-why" }, [near, found.why].filter(Boolean).join(" · ")),
  );
}

/** An excerpt for reading: without the marks of Markdown and the rulings of its tables. */
function plain(text) {
  return text
    .replace(/!?\[([^\]]*)\]\([^)]*\)/g, "$1")
    .replace(/^#+ |^[ |:-]+$|[`*|]+/gm, " ")
    .replace(/\s+/g, " ")
    .trim();
}
