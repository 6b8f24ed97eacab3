// A document's text as its passages: each of them a section, the one that is cited marked. Passages overlap a little;
// the text is shown once, and a mark reaches back into the section before.

import { h } from "../dom.js";
import { pageWords } from "./words.js";

const WRAPPED_LINE = /([^\n]{60,})\n(?=[^\n\s#|*•-])/g;

/** Sections for these passages, which follow `before` (null: they are the first). `wrapped`: its lines end where the
    paper did, so that a paragraph is made one again; every character keeps its place. */
export function sections(chunks, before, wrapped) {
  let previous = before;
  return chunks.map((chunk) => {
    const made = section(chunk, previous, wrapped);
    previous = chunk;
    return made;
  });
}

function section(chunk, previous, wrapped) {
  const pages = pageWords(chunk.page_first, chunk.page_last);
  const headings = chunk.headings.join(" › ");
  const newPage = chunk.page_first !== null && chunk.page_first !== (previous?.page_last ?? previous?.page_first);
  const newHeadings = headings !== (previous?.headings.join(" › ") ?? "");
  const label = [`Passage ${chunk.number + 1}`, pages].filter(Boolean).join(", ");
  const overlap = previous ? Math.max(0, previous.end - chunk.start) : 0;
  const own = [...chunk.text].slice(overlap).join("");
  const text = wrapped ? own.replace(WRAPPED_LINE, "$1 ") : own;
  const saysItself = chunk.text.replace(/^[#\s]+/, "").startsWith(chunk.headings.at(-1) ?? "");
  return h(
    "section",
    { class: "passage", id: `passage-${chunk.id}`, tabIndex: -1, "aria-label": label, dataset: { number: chunk.number, start: chunk.start + overlap, end: chunk.end } },
    newPage ? h("p", { class: "passage-page" }, `Page ${chunk.page_first}`) : null,
    newHeadings && headings && !saysItself ? h("p", { class: "passage-headings" }, headings) : null,
    h("a", { class: "passage-number", href: `?chunk=${chunk.id}`, "aria-label": `Link to passage ${chunk.number + 1}`, title: `${label}, ${chunk.tokens} tokens`, dataset: { chunk: chunk.id } }, String(chunk.number + 1)),
    h("div", { class: "passage-body" }, text),
  );
}

/** Mark this passage wherever its text stands. */
export function mark(container, chunk) {
  unmark(container);
  container.querySelector(`#passage-${chunk.id}`)?.setAttribute("aria-current", "true");
  for (const element of container.querySelectorAll(".passage")) {
    const [start, end] = [Number(element.dataset.start), Number(element.dataset.end)];
    if (end <= chunk.start || start >= chunk.end) continue;
    const body = element.querySelector(".passage-body");
    const points = [...body.textContent];
    const [from, to] = [Math.max(0, chunk.start - start), Math.min(points.length, chunk.end - start)];
    const part = (first, last) => points.slice(first, last).join("");
    body.replaceChildren(part(0, from), h("mark", {}, part(from, to)), part(to));
  }
}

function unmark(container) {
  container.querySelector("[aria-current]")?.removeAttribute("aria-current");
  for (const marked of container.querySelectorAll("mark")) {
    const body = marked.parentElement;
    body.textContent = body.textContent; // one text again
  }
}
