"""How often the right passage of the repository's own documents is found: by meaning, by words, and by both.

The questions and their answers stand in knowledge_questions.yaml. The documents are cut at their headings here, so
that a question's passage is known whatever cuts documents in the product.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Sequence

import msgspec
import yaml

from bench.knowledge_library import Piece, fill, open_encoder, open_library
from bench.machine import ROOT
from bench.report import Goal, Report, Table
from reef.knowledge.model import Passage
from reef.knowledge.retrieval import SIMILARITY_MIN, Mode, Retriever

QUESTIONS = ROOT / "bench" / "knowledge_questions.yaml"
DOCUMENTS = ("README.md", "CONTRIBUTING.md", "docs/*.md", "docs/decisions/*.md")
WORDS_MAX = 180
"""Of a passage; about what a small embedding model reads at once."""
DEPTH = 10
MODES: tuple[Mode, ...] = ("vector", "text", "hybrid")
THRESHOLDS = (0.0, 0.1, 0.14, 0.16, 0.18, 0.2, 0.25, 0.3, 0.4)


class Question(msgspec.Struct, frozen=True):
    """A question, the places that answer it, and its kind."""

    q: str
    at: list[str]
    kind: str


class Questions(msgspec.Struct, frozen=True):
    """The labelled set."""

    questions: list[Question]
    unanswerable: list[str]


def read_questions() -> Questions:
    """The labelled set, checked for its shape."""
    return msgspec.convert(yaml.safe_load(QUESTIONS.read_text(encoding="utf-8")), Questions)


def sections() -> list[Piece]:
    """The repository's documents, cut at headings and, where a section is long, between paragraphs."""
    found = []
    for pattern in DOCUMENTS:
        for path in sorted(ROOT.glob(pattern)):
            name = str(path.relative_to(ROOT))
            found += [Piece(name, headings, text) for headings, text in _sections(path.read_text(encoding="utf-8"))]
    return found


def _sections(text: str) -> Iterator[tuple[tuple[str, ...], str]]:
    path: list[str] = []
    for part in re.split(r"(?m)^(?=#{1,4} )", text):
        head, _, body = part.partition("\n")
        if match := re.match(r"(#{1,4}) (.*)", head):
            level = len(match.group(1))
            path = [*path[: level - 1], match.group(2).strip()]
        else:
            body = part
        for piece in _pieces(body):
            yield tuple(path), piece
        if match and not body.strip():
            yield tuple(path), match.group(2).strip()


def _pieces(body: str) -> Iterator[str]:
    """Whole lines, as many as fit; a table's rows and a list's points are lines too."""
    held: list[str] = []
    for line in body.splitlines():
        if sum(len(one.split()) for one in held) + len(line.split()) > WORDS_MAX and any(map(str.strip, held)):
            yield "\n".join(held).strip()
            held = []
        held.append(line)
    if any(map(str.strip, held)):
        yield "\n".join(held).strip()


def run(report: Report) -> None:
    """Measure."""
    asked = read_questions()
    with open_library("knowledge_quality") as library, open_encoder() as engine:
        pieces = sections()
        vectors = engine.embed_documents([piece.shown() for piece in pieces], threading.Event())
        fill(library, pieces, [vector.tobytes() for vector in vectors])
        retriever = Retriever(library.database, library.vectors, engine.embed_query)
        places = {mode: _places(retriever, asked.questions, mode) for mode in MODES}
        thresholds = _thresholds(retriever, asked)
    report.tables += [_quality(asked.questions, places), thresholds]
    scores = {mode: _mrr(list(places[mode].values())) for mode in MODES}
    report.goals.append(
        Goal(
            "hybrid finds better than vectors alone",
            f"MRR {scores['hybrid']:.3f} and {scores['vector']:.3f}",
            scores["hybrid"] > scores["vector"],
        )
    )
    report.notes.append(
        f"{len(asked.questions)} questions about {len(pieces)} passages; {len(asked.unanswerable)} questions that "
        f"nothing answers. Without a threshold but for the last table; the product's is {SIMILARITY_MIN}."
    )
    report.samples = {"places": {mode: list(found.values()) for mode, found in places.items()}}


def _places(retriever: Retriever, questions: Sequence[Question], mode: Mode) -> dict[str, int | None]:
    """At which place the first right passage came; None where it was not among the first ten."""
    found: dict[str, int | None] = {}
    for question in questions:
        passages = retriever.retrieve(question.q, ["shared"], k=DEPTH, mode=mode, similarity_min=-1.0)
        right = [place for place, passage in enumerate(passages, 1) if _answers(passage, question)]
        found[question.q] = right[0] if right else None
    return found


def _answers(passage: Passage, question: Question) -> bool:
    return any(f"{passage.name}#{heading}" in question.at for heading in passage.headings[-1:])


def _quality(questions: Sequence[Question], places: dict[Mode, dict[str, int | None]]) -> Table:
    rows = []
    for mode in MODES:
        cells: list[str] = [mode]
        for kind in ("", "meaning", "exact"):
            mine = [places[mode][question.q] for question in questions if kind in ("", question.kind)]
            cells += [f"{_recall(mine, 1):.3f}", f"{_recall(mine, 5):.3f}", f"{_mrr(mine):.3f}"]
        rows.append(cells)
    head = ["found by"]
    for kind in ("all", "paraphrased", "exact terms"):
        head += [f"{kind}: first", "recall@5", "MRR"]
    return Table(head, rows)


def _thresholds(retriever: Retriever, asked: Questions) -> Table:
    """What a threshold costs in answers and what it spares in nonsense."""
    rows = []
    for least in THRESHOLDS:
        answered = 0
        for question in asked.questions:
            passages = retriever.retrieve(question.q, ["shared"], k=5, similarity_min=least)
            answered += any(_answers(passage, question) for passage in passages)
        silent = sum(
            not retriever.retrieve(question, ["shared"], k=5, similarity_min=least) for question in asked.unanswerable
        )
        rows.append(
            [f"{least:.2f}", f"{answered / len(asked.questions):.3f}", f"{silent} of {len(asked.unanswerable)}"]
        )
    return Table(["similarity at least", "right passage among 5", "nothing where nothing answers"], rows)


def _recall(places: Sequence[int | None], depth: int) -> float:
    return sum(place is not None and place <= depth for place in places) / len(places)


def _mrr(places: Sequence[int | None]) -> float:
    return sum(1 / place if place else 0.0 for place in places) / len(places)
