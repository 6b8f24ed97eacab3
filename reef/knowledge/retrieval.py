"""Answers "which passages speak of this?": by meaning, by words, and fused. Sees only what is visible to the asker.

How a question is answered: the windows nearest to it (vector index) and the chunks with its words (full-text index)
are fused by reciprocal rank; what is too far from the question in meaning is left out, unless it has every word of
it; where there is a reranker, it puts the best of what is left in its own order; and passages that say the same thing
give way to others (maximal marginal relevance). Knows neither prompts nor personas' rights beyond the stores it is
given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from reef.knowledge import fulltext
from reef.knowledge.chroma import Where
from reef.knowledge.model import Passage
from reef.knowledge.passages import PASSAGE_COLUMNS, passage_of
from reef.knowledge.reranking import Reranking
from reef.knowledge.vectors import QUERY_K_MAX, Vectors
from reef.knowledge.visible import NO_FILTERS, Filters, owners, visible
from reef.records.database import Database
from reef.records.tables import chunks, documents, windows
from reef.records.words import question_words

Mode = Literal["hybrid", "vector", "text"]
Vector = NDArray[np.float32]

FUSION_K = 60
"""Of reciprocal rank fusion: how little the first places differ."""
CANDIDATES_MIN = 20
CANDIDATES_PER_RESULT = 2
"""Of each index. Far more would let what is middling in both push out what is first in one."""
WINDOWS_PER_CANDIDATE = 3
"""A chunk has several windows, and the index may still have some that are visible no more."""
EXACT_WINDOWS_MAX = 5_000
"""A filter that leaves no more windows is answered from the records, exactly: an index with a filter is slower."""
SIMILARITY_MIN = 0.18
"""Cosine below which a passage has nothing to do with the question; see docs/performance.md for how it was chosen."""
RELEVANCE_SHARE = 0.8
"""Of relevance in the choice of the next passage; the rest goes to not repeating those chosen already."""
REPETITION_FROM = 0.8
"""Cosine of two passages from which one begins to repeat the other; passages of one subject are below it."""
OVERLAP_SHARE_MAX = 0.5
"""Two passages of one document that share more of the shorter one are one passage."""


class _Found(msgspec.Struct):
    """A chunk on its way to become a passage."""

    chunk_id: int
    by_vector: int | None = None
    by_text: int | None = None
    complete: bool = False
    """It has every word of the question: as good as a first place, and what makes a name or a code be found."""
    similarity: float | None = None
    vector: Vector | None = None

    @property
    def score(self) -> float:
        places = (self.by_vector, self.by_text, 1 if self.complete else None)
        return sum(1.0 / (FUSION_K + place) for place in places if place is not None) * (FUSION_K + 1) / len(places)


class Retriever:
    """Finds passages in the stores of one reef. Thread-safe as far as `embed` is."""

    def __init__(
        self,
        database: Database,
        vectors: Vectors,
        embed: Callable[[str], Vector],
        reranking: Reranking | None = None,
    ) -> None:
        """`embed` gives the normalised vector of a question, by the model that made the documents' vectors."""
        self._database = database
        self._vectors = vectors
        self._embed = embed
        self._reranking = reranking

    def retrieve(
        self,
        question: str,
        stores: Sequence[str],
        *,
        k: int = 8,
        filters: Filters = NO_FILTERS,
        mode: Mode = "hybrid",
        similarity_min: float = SIMILARITY_MIN,
    ) -> list[Passage]:
        """At most k passages, best first; none where nothing is relevant.

        `stores`: see `stores_of` for what a persona may read. Raises VectorStoreDown (not in mode `text`).
        """
        asked = max(CANDIDATES_MIN, CANDIDATES_PER_RESULT * k)
        found: dict[int, _Found] = {}
        vector = None if mode == "text" else np.asarray(self._embed(question), dtype="<f4")
        # outside of any connection: a slow vector store must not hold one
        deep = WINDOWS_PER_CANDIDATE * asked
        near = [] if vector is None or filters.given else self._vectors.query(stores, vector.tobytes(), deep)
        with self._database.read() as connection:
            if vector is not None:
                if filters.given:
                    near = self._near_filtered(connection, stores, vector, deep, filters)
                for place, chunk_id in enumerate(_best_chunks(connection, stores, near, filters)[:asked], start=1):
                    found[chunk_id] = _Found(chunk_id, by_vector=place)
            if mode != "vector":
                hits = fulltext.search(connection, stores, question, asked, filters)
                for place, (chunk_id, _) in enumerate(hits, start=1):
                    found.setdefault(chunk_id, _Found(chunk_id)).by_text = place
            if vector is not None:
                _compare(connection, found, vector)
            rows = _rows(connection, found)
        if mode != "vector":
            _find_complete(rows, found, question)
        passages = [
            passage_of(rows[one.chunk_id], one.score, one.similarity, _why(one))
            for one in sorted(found.values(), key=lambda one: (-one.score, one.chunk_id))
            if one.chunk_id in rows and (vector is None or _relevant(one, similarity_min))
        ]
        vectors_of = {one.chunk_id: one.vector for one in found.values() if one.vector is not None}
        passages = _without_overlaps(passages)
        if self._reranking is not None:
            passages = self._reranking.best_first(question, passages)
        return _diverse(passages, vectors_of, k)

    def _near_filtered(
        self, connection: sa.Connection, stores: Sequence[str], vector: Vector, asked: int, filters: Filters
    ) -> list[tuple[int, float]]:
        few = connection.execute(
            sa.select(windows.c.id, windows.c.vector)
            .join(chunks, chunks.c.id == windows.c.chunk_id)
            .join(documents, documents.c.id == chunks.c.document_id)
            .where(visible(stores, filters), windows.c.vector.is_not(None))
            .limit(EXACT_WINDOWS_MAX + 1)
        ).all()
        if len(few) > EXACT_WINDOWS_MAX:
            in_records = filters.document_ids or filters.name_prefix  # the index does not know these
            return self._vectors.query(stores, vector.tobytes(), QUERY_K_MAX if in_records else asked, _where(filters))
        if not few:
            return []
        cosines = np.frombuffer(b"".join(row[1] for row in few), dtype="<f4").reshape(len(few), -1) @ vector
        best = np.argsort(-cosines)[:asked]
        return [(int(few[place][0]), float(cosines[place])) for place in best]


def _where(filters: Filters) -> Where | None:
    """What the vector index knows of these filters, in its words."""
    known = [
        {name: value} for name, value in (("language", filters.language), ("mime_type", filters.mime_type)) if value
    ]
    return {"$and": known} if len(known) > 1 else known[0] if known else None


def _best_chunks(
    connection: sa.Connection, stores: Sequence[str], near: Sequence[tuple[int, float]], filters: Filters
) -> list[int]:
    """The visible chunks of these windows, each once, by its best window."""
    if not near:
        return []
    owner = owners(connection, [window_id for window_id, _ in near], visible(stores, filters))
    return list(dict.fromkeys(owner[window_id][0] for window_id, _ in near if window_id in owner))


def _compare(connection: sa.Connection, found: dict[int, _Found], vector: Vector) -> None:
    """Give every candidate the vector of its best window and the cosine, exactly, from the records."""
    rows = connection.execute(
        sa.select(windows.c.chunk_id, windows.c.vector).where(
            windows.c.chunk_id.in_(list(found)), windows.c.vector.is_not(None)
        )
    )
    for chunk_id, raw in rows:
        window: Vector = np.frombuffer(raw, dtype="<f4")
        if window.shape != vector.shape:
            continue  # another model made it: the checker has its document embedded again
        similarity = float(window @ vector)
        one = found[chunk_id]
        if one.similarity is None or similarity > one.similarity:
            one.similarity, one.vector = similarity, window


def _rows(connection: sa.Connection, found: Iterable[int]) -> dict[int, sa.RowMapping]:
    rows = connection.execute(
        sa.select(*PASSAGE_COLUMNS)
        .join(documents, documents.c.id == chunks.c.document_id)
        .where(chunks.c.id.in_(list(found)))
    ).mappings()
    return {row["id"]: row for row in rows}


def _find_complete(rows: dict[int, sa.RowMapping], found: dict[int, _Found], question: str) -> None:
    """Note which of the candidates have every word of the question, in their text or in the headings above it."""
    words = question_words(question)
    for chunk_id, row in rows.items():
        here = f"{row['headings']}\n{row['text']}\n{row['words']}".lower()
        found[chunk_id].complete = bool(words) and all(any(form in here for form in word.forms) for word in words)


def _why(one: _Found) -> str:
    ways = []
    if one.by_vector is not None:
        ways.append(f"no. {one.by_vector} by meaning")
    if one.by_text is not None:
        ways.append(f"no. {one.by_text} by words")
    if one.complete:
        ways.append("has every word")
    return ", ".join(ways)


def _relevant(one: _Found, similarity_min: float) -> bool:
    """Near enough in meaning; or it has every word of the question, as a passage with a name or a code has."""
    return one.complete or (one.similarity is not None and one.similarity >= similarity_min)


def _without_overlaps(passages: Sequence[Passage]) -> list[Passage]:
    """Chunks overlap, and documents are copied; of two that are mostly the same text, the better one stays."""
    kept: list[Passage] = []
    for passage in passages:
        if not any(_overlap(passage, other) > OVERLAP_SHARE_MAX for other in kept):
            kept.append(passage)
    return kept


def _overlap(one: Passage, other: Passage) -> float:
    if one.text == other.text:
        return 1.0
    if one.document_id != other.document_id:
        return 0.0
    shared = min(one.end, other.end) - max(one.start, other.start)
    return shared / max(1, min(one.end - one.start, other.end - other.start))


def _diverse(passages: Sequence[Passage], vectors_of: dict[int, Vector], k: int) -> list[Passage]:
    """Choose one after the other, each by its score and by how little it repeats the ones before it."""
    left, chosen = list(passages), list[Passage]()
    top = max((passage.score for passage in left), default=1.0)
    repeated = dict.fromkeys((passage.chunk_id for passage in left), 0.0)
    while left and len(chosen) < k:
        best = max(
            left,
            key=lambda one: RELEVANCE_SHARE * one.score / top - (1 - RELEVANCE_SHARE) * repeated[one.chunk_id],
        )
        left.remove(best)
        chosen.append(best)
        newest = vectors_of.get(best.chunk_id)
        for one in left:
            own = vectors_of.get(one.chunk_id)
            if newest is not None and own is not None:
                repeats = (float(own @ newest) - REPETITION_FROM) / (1 - REPETITION_FROM)
                repeated[one.chunk_id] = max(repeated[one.chunk_id], repeats)
    return chosen
