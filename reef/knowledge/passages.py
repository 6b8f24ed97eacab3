"""Passages as they stand in the records now. Finding them is done elsewhere (retrieval.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import sqlalchemy as sa

from reef.knowledge.model import PageStart, Passage
from reef.knowledge.visible import visible
from reef.records.tables import chunks, documents

PASSAGE_COLUMNS = (*chunks.c, documents.c.name, documents.c.title)


def load_passages(connection: sa.Connection, scores: Mapping[int, float], stores: Sequence[str]) -> list[Passage]:
    """Those of these chunks that are visible in the stores, in no order."""
    rows = connection.execute(
        sa.select(*PASSAGE_COLUMNS)
        .join(documents, documents.c.id == chunks.c.document_id)
        .where(chunks.c.id.in_(list(scores)), visible(stores))
    ).mappings()
    return [passage_of(row, scores[row["id"]]) for row in rows]


def passage_of(row: sa.RowMapping, score: float, similarity: float | None = None, why: str = "") -> Passage:
    """A row of PASSAGE_COLUMNS as a passage."""
    return Passage(
        chunk_id=row["id"],
        document_id=row["document_id"],
        name=row["name"],
        title=row["title"],
        page_first=row["page_first"],
        page_last=row["page_last"],
        page_starts=page_starts_of(row["page_starts"]),
        headings=tuple(row["headings"].splitlines()),
        start=row["start"],
        end=row["end"],
        text=row["text"],
        tokens=row["tokens"],
        score=round(score, 4),
        similarity=None if similarity is None else round(similarity, 4),
        why=why,
    )


def page_starts_of(stored: str) -> tuple[PageStart, ...]:
    """Of `chunks.page_starts`."""
    return msgspec.json.decode(stored, type=tuple[PageStart, ...]) if stored else ()
