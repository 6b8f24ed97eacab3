"""Vectors without a vector server: a question is compared with every vector of its stores, straight from the records.

Exact and always up to date, since the records are all there is; its time grows with the number of passages. It is
what a reef without a vector server searches with, and what others are measured against.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa

from reef.knowledge.chroma import Metadata, Where
from reef.knowledge.visible import visible
from reef.records.database import Database
from reef.records.tables import chunks, documents, windows

ROWS_AT_ONCE = 2_000
"""Vectors in memory at the same time."""


class ExactVectors:
    """reef.knowledge.vectors.Vectors over the records themselves."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def upsert(
        self, store: str, window_ids: Sequence[int], vectors: Sequence[bytes], metadatas: Sequence[Metadata]
    ) -> None:
        """Nothing to do: the records are searched."""

    def delete(self, store: str, window_ids: Sequence[int]) -> None:
        """Nothing to do: the records are searched."""

    def drop(self, store: str) -> None:
        """Nothing to do: the records are searched."""

    def stores(self) -> list[str]:
        """None has anything besides the records."""
        return []

    def query(
        self, stores: Sequence[str], vector: bytes, k: int, where: Where | None = None
    ) -> list[tuple[int, float]]:
        """The k visible windows nearest to the vector, with their cosines. `where` is left to the caller's own look."""
        asked = np.frombuffer(vector, dtype="<f4")
        best: list[tuple[float, int]] = []
        after = 0
        while True:
            query = (
                sa.select(windows.c.id, windows.c.vector)
                .join(chunks, chunks.c.id == windows.c.chunk_id)
                .join(documents, documents.c.id == chunks.c.document_id)
                .where(visible(stores), windows.c.vector.is_not(None), windows.c.id > after)
                .order_by(windows.c.id)
                .limit(ROWS_AT_ONCE)
            )
            with self._database.read() as connection:
                rows = [row for row in connection.execute(query).all() if len(row.vector) == len(vector)]
            if not rows:
                return [(window_id, score) for score, window_id in best]
            after = rows[-1].id
            scores = np.frombuffer(b"".join(row.vector for row in rows), dtype="<f4").reshape(len(rows), -1) @ asked
            fresh = ((float(score), row.id) for score, row in zip(scores, rows, strict=True))
            best = heapq.nlargest(k, [*best, *fresh])
