// What a reply rests on: links to the passages, under the reply and where the reply marks them as [1].

import { h } from "../dom.js";

const MARK = /[[【]\s*(\d{1,3}(?:\s*[,;]\s*\d{1,3})*)\s*[\]】]/g;

/** How sure it is that a reply rests on its sources, by the `basis` of its citations. */
const BASES = {
  cited: { title: "Sources", hint: "" },
  matched: { title: "Matched by wording", hint: "The model marked no source. What the reply says stands here in the same words." },
  source: { title: "Passages it was given", hint: "The model marked no source, and the reply's words are in none of these: check it. Each leads to the place nearest to the question." },
};

/** The passage, and in it the place that is meant. */
export function passageUrl({ document_id: documentId, chunk_id: chunk, start: from, end: to }) {
  return `/documents/${encodeURIComponent(documentId)}?${new URLSearchParams({ chunk, from, to })}`;
}

/** Where a passage stands, in words: "page 3 · Berths". */
function place({ page_first: first, page_last: last, headings }) {
  const pages = !first ? "" : !last || last === first ? `page ${first}` : `pages ${first}–${last}`;
  return [pages, headings?.at(-1)].filter(Boolean).join(" · ");
}

function fileName(name) {
  return name.split("/").at(-1);
}

/** The list under a reply, or null where it rests on nothing. */
export function sourcesList(citations) {
  if (!citations?.length) return null;
  const { title, hint } = BASES[citations[0].basis] ?? BASES.source;
  return h(
    "section",
    { class: "sources", "aria-label": title, dataset: { basis: citations[0].basis } },
    h("h4", {}, title),
    hint ? h("p", { class: "sources-hint" }, hint) : null,
    h(
      "ol",
      {},
      ...citations.map((citation) =>
        h(
          "li",
          {},
          h(
            "a",
            { href: passageUrl(citation), class: "source", title: citation.name },
            // a number stands for a mark in the reply; where there is none, there is no number
            citation.basis === "cited" ? h("span", { class: "source-number", "aria-hidden": "true" }, String(citation.number)) : null,
            h("span", { class: "source-name" }, fileName(citation.name)),
            h("span", { class: "source-place" }, place(citation)),
          ),
        ),
      ),
    ),
  );
}

/** Make the marks of a told reply links. Code and links stay as they are. */
export function linkMarks(root, citations) {
  if (!citations?.length) return;
  const byNumber = new Map(citations.map((citation) => [citation.number, citation]));
  const walker = document.createTreeWalker(root, NodeFilter.SHOW_TEXT);
  const texts = [];
  for (let node = walker.nextNode(); node; node = walker.nextNode()) {
    if (!node.parentElement.closest("code, pre, a") && node.data.search(MARK) >= 0) texts.push(node);
  }
  for (const node of texts) node.replaceWith(...linked(node.data, byNumber));
}

function linked(text, byNumber) {
  const parts = [];
  let from = 0;
  for (const match of text.matchAll(MARK)) {
    const known = match[1].split(/[,;]/).map(Number).filter((number) => byNumber.has(number));
    if (!known.length) continue;
    parts.push(text.slice(from, match.index), ...known.map((number) => mark(byNumber.get(number))));
    from = match.index + match[0].length;
  }
  parts.push(text.slice(from));
  return parts;
}

function mark(citation) {
  const label = `Source ${citation.number}: ${fileName(citation.name)}${place(citation) ? `, ${place(citation)}` : ""}`;
  return h("a", { href: passageUrl(citation), class: "cite", "aria-label": label, title: label }, String(citation.number));
}
