// A document's text as its passages: each of them a section, what is cited in it marked. Passages overlap a little; the
// text is shown once, and a mark reaches back into the section before. Where a page begins inside one, a line says so.

import { h } from "../dom.js";
import { pageWords } from "./words.js";

const WRAPPED_LINE = /([^\n]{60,})\n(?=[^\n\s#|*•-])/g;
/** What each section's body shows: its characters, their first place in the document, the pages that begin in it. */
const shown = new WeakMap();

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
  const overlap = previous ? Math.max(0, previous.end - chunk.start) : 0;
  const page = pageAt(chunk, overlap);
  const newPage = page !== null && page !== (previous?.page_last ?? previous?.page_first);
  const newHeadings = headings !== (previous?.headings.join(" › ") ?? "");
  const label = [`Passage ${chunk.number + 1}`, pages].filter(Boolean).join(", ");
  const own = [...chunk.text].slice(overlap).join("");
  const saysItself = chunk.text.replace(/^[#\s]+/, "").startsWith(chunk.headings.at(-1) ?? "");
  const body = h("div", { class: "passage-body" });
  const breaks = chunk.page_starts.filter((one) => one.start > overlap).map((one) => ({ ...one, start: one.start - overlap }));
  shown.set(body, { points: [...(wrapped ? own.replace(WRAPPED_LINE, "$1 ") : own)], start: chunk.start + overlap, breaks });
  fill(body);
  return h(
    "section",
    { class: "passage", id: `passage-${chunk.id}`, tabIndex: -1, "aria-label": label, dataset: { number: chunk.number } },
    newPage ? h("p", { class: "passage-page" }, `Page ${page}`) : null,
    newHeadings && headings && !saysItself ? h("p", { class: "passage-headings" }, headings) : null,
    h("a", { class: "passage-number", href: `?chunk=${chunk.id}`, "aria-label": `Link to passage ${chunk.number + 1}`, title: `${label}, ${chunk.tokens} tokens`, dataset: { chunk: chunk.id } }, String(chunk.number + 1)),
    body,
  );
}

/** The page on which a place of a passage's text stands. */
export function pageAt(chunk, at) {
  return chunk.page_starts.findLast((one) => one.start <= at)?.number ?? chunk.page_first;
}

/** The text of a body, what is in `span` of the document marked, a line where a page begins. */
function fill(body, span = null) {
  const { points, start, breaks } = shown.get(body);
  const inside = (place) => Math.max(0, Math.min(points.length, place - start));
  const [from, to] = span ? [inside(span.start), inside(span.end)] : [0, 0];
  const cuts = [...new Set([0, ...breaks.map((one) => one.start), from, to, points.length])].sort((one, other) => one - other);
  const parts = cuts.slice(0, -1).flatMap((first, index) => {
    const text = points.slice(first, cuts[index + 1]).join("");
    return [...breaks.filter((one) => one.start === first).map(pageBreak), first >= from && first < to ? h("mark", {}, text) : text];
  });
  body.replaceChildren(...parts);
}

/** Its words are not of the document's text, so nothing that is copied or counted has them. */
const pageBreak = ({ number }) => h("span", { class: "page-break", role: "separator", "aria-label": `Page ${number}`, dataset: { words: `Page ${number}` } });

/** Say that this passage is meant, and mark a span of the document wherever its text stands; null: nothing. */
export function mark(container, chunk, span) {
  container.querySelector("[aria-current]")?.removeAttribute("aria-current");
  container.querySelector(`#passage-${chunk.id}`)?.setAttribute("aria-current", "true");
  for (const body of container.querySelectorAll(".passage-body")) {
    const { points, start } = shown.get(body);
    const meant = span && span.start < start + points.length && span.end > start;
    if (meant) fill(body, span);
    else if (body.querySelector("mark")) fill(body);
  }
}
