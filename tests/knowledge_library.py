"""A library for the tests: documents with chunks, windows and vectors, stored as the ingestion stores them."""

from __future__ import annotations

import hashlib
import itertools
import time
from collections.abc import Sequence

import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from reef.knowledge.indexing import PassageIndex
from reef.knowledge.vectors import Vectors
from reef.records.database import Database
from reef.records.tables import chunks, document_stores, documents, windows
from reef.records.words import question_words

DIMENSIONS = 64
_numbers = itertools.count(1)


def hashed(text: str) -> NDArray[np.float32]:
    """A vector that is near to that of a text with the same words: each word adds a direction of its own."""
    total = np.zeros(DIMENSIONS)
    for word in question_words(text):
        seed = int.from_bytes(hashlib.sha256(word.forms[-1].encode()).digest()[:8], "little")
        total += np.random.default_rng(seed).normal(size=DIMENSIONS)
    return (total / (np.linalg.norm(total) or 1.0)).astype("<f4")


def add_document(
    database: Database,
    texts: Sequence[str],
    *,
    stores: Sequence[str] = ("shared",),
    name: str = "",
    state: str = "indexing",
    embedded: bool = True,
    **fields: object,
) -> str:
    """Store a document of these passages, one window each; returns its id."""
    number = next(_numbers)
    document_id = f"{number:032x}"
    row = {
        "id": document_id,
        "name": name or f"document {number}",
        "size_bytes": 1,
        "state": state,
        "state_at": 0.0,
        "created_at": time.time() + number,
        "chunk_count": len(texts),
        "embedded_by": "hashed",
    }
    with database.write() as connection:
        connection.execute(documents.insert().values(row | fields))
        connection.execute(document_stores.insert(), [{"document_id": document_id, "store": store} for store in stores])
        start = 0
        for place, text in enumerate(texts):
            chunk_id = connection.execute(
                chunks.insert().returning(chunks.c.id),
                {
                    "document_id": document_id,
                    "number": place,
                    "text": text,
                    "start": start,
                    "end": start + len(text),
                    "page_first": place + 1,
                    "page_last": place + 1,
                    "tokens": len(text.split()),
                },
            ).scalar_one()
            start += len(text) + 1
            vector = hashed(text).tobytes() if embedded else None
            connection.execute(windows.insert().values(chunk_id=chunk_id, start=0, end=len(text), vector=vector))
    return document_id


def window_ids(database: Database, document_id: str) -> list[int]:
    """The document's windows."""
    query = sa.select(windows.c.id).join(chunks).where(chunks.c.document_id == document_id)
    with database.read() as connection:
        return list(connection.execute(query).scalars())


def state_of(database: Database, document_id: str) -> str | None:
    """The document's state; None where it is gone."""
    with database.read() as connection:
        return connection.execute(sa.select(documents.c.state).where(documents.c.id == document_id)).scalar()


def index_waiting(database: Database, vectors: Vectors, limit: int = 1000) -> list[str]:
    """Put documents that wait and have all their vectors into the index and show them; gives their ids."""
    bare = (
        sa.exists()
        .where(chunks.c.document_id == documents.c.id, windows.c.chunk_id == chunks.c.id, windows.c.vector.is_(None))
        .correlate(documents)
    )
    query = sa.select(documents.c.id).where(documents.c.state == "indexing", ~bare).order_by(documents.c.created_at)
    with database.read() as connection:
        ids = list(connection.execute(query.limit(limit)).scalars())
    PassageIndex(database, vectors).put(ids, lambda: None)
    with database.write() as connection:
        connection.execute(documents.update().where(documents.c.id.in_(ids)).values(state="indexed", indexed_at=1.0))
    return ids


def move(database: Database, vectors: Vectors, document_id: str, stores: Sequence[str]) -> None:
    """Give a document to these stores only, as the flow does it: it is put into the index again."""
    with database.write() as connection:
        connection.execute(document_stores.delete().where(document_stores.c.document_id == document_id))
        connection.execute(document_stores.insert(), [{"document_id": document_id, "store": store} for store in stores])
    PassageIndex(database, vectors).put([document_id], lambda: None)
