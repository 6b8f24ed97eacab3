"""Searching without an index: every question is compared with every vector of its stores, straight from the records.

Exact and always up to date, since the records are all there is; its time grows with the number of passages. It is
what a reef without a vector server searches with, and what others are measured against.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from reef.contracts.jobs import QueryFilters, QueryJob
from reef.knowledge.model import Passage
from reef.records.database import Database
from reef.records.tables import chunks, document_stores, documents, windows

ROWS_AT_ONCE = 2_000
"""Vectors in memory at the same time."""


class ExactIndex:
    """reef.ports.KnowledgeIndex over the records themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, document_ids: Sequence[str], progressed: Callable[[], None]) -> None:
        """Nothing to do: the records are searched."""
        progressed()

    def drop(self, document_ids: Sequence[str], progressed: Callable[[], None]) -> None:
        """Nothing to do: the records are searched."""
        progressed()

    def search(self, job: QueryJob, vector: NDArray[np.float32]) -> list[Passage]:
        """The passages nearest to the vector, each once, best first."""
        best: dict[int, float] = {}
        for chunk_ids, matrix in self._vectors(job):
            for chunk_id, score in zip(chunk_ids, matrix @ vector, strict=True):
                if score > best.get(chunk_id, -2.0):
                    best[chunk_id] = float(score)
            best = dict(heapq.nlargest(job.k, best.items(), key=lambda item: item[1]))
        if job.score_min is not None:
            best = {chunk_id: score for chunk_id, score in best.items() if score >= job.score_min}
        return self._passages(best)

    def _vectors(self, job: QueryJob) -> Iterator[tuple[list[int], NDArray[np.float32]]]:
        after = 0
        condition = sa.and_(_visible(job.stores, job.filters), windows.c.vector.is_not(None))
        while True:
            query = (
                sa.select(windows.c.id, windows.c.chunk_id, windows.c.vector)
                .join(chunks, chunks.c.id == windows.c.chunk_id)
                .join(documents, documents.c.id == chunks.c.document_id)
                .where(condition, windows.c.id > after)
                .order_by(windows.c.id)
                .limit(ROWS_AT_ONCE)
            )
            with self._database.read() as connection:
                rows = connection.execute(query).all()
            if not rows:
                return
            after = rows[-1].id
            matrix = np.frombuffer(b"".join(row.vector for row in rows), dtype="<f4").reshape(len(rows), -1)
            yield [row.chunk_id for row in rows], matrix

    def _passages(self, best: dict[int, float]) -> list[Passage]:
        columns: list[Any] = [chunks.c[name] for name in ("text", "start", "end", "tokens", "page_first", "page_last")]
        columns += [chunks.c.id.label("chunk_id"), chunks.c.headings, documents.c.name, documents.c.title]
        query = (
            sa.select(chunks.c.document_id, *columns)
            .join(documents, documents.c.id == chunks.c.document_id)
            .where(chunks.c.id.in_(list(best)))
        )
        with self._database.read() as connection:
            rows = connection.execute(query).mappings().all()
        found = [
            Passage(
                **{**row, "headings": tuple(row["headings"].split("\n")) if row["headings"] else ()},
                score=round(best[row["chunk_id"]], 6),
                similarity=round(best[row["chunk_id"]], 6),
                why="near in meaning",
            )
            for row in rows
        ]
        return sorted(found, key=lambda passage: (-passage.score, passage.chunk_id))


def _visible(stores: Sequence[str], filters: QueryFilters) -> sa.ColumnElement[bool]:
    belongs = sa.exists().where(
        document_stores.c.document_id == documents.c.id, document_stores.c.store.in_(list(stores))
    )
    conditions: list[sa.ColumnElement[bool]] = [documents.c.state == "indexed", belongs]
    if filters.document_ids:
        conditions.append(documents.c.id.in_(filters.document_ids))
    if filters.name_prefix:
        conditions.append(documents.c.name.startswith(filters.name_prefix, autoescape=True))
    if filters.language:
        conditions.append(documents.c.language == filters.language)
    if filters.mime_type:
        conditions.append(documents.c.mime_type == filters.mime_type)
    return sa.and_(*conditions)
