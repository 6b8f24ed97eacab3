"""Holds the vector index against the records, in both directions, and repairs it. Works while everything serves.

The records are the truth. Reads both in pages, so that memory stays small however large the library is. What a worker
is storing at the same moment (documents in state `indexing`) is left alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import msgspec
import sqlalchemy as sa

from reef.knowledge.indexing import WindowRow, document_rows, put_rows
from reef.knowledge.model import SHARED_STORE
from reef.knowledge.vectors import BATCH_MAX, VectorIndex
from reef.knowledge.visible import owners
from reef.records.database import Database
from reef.records.tables import chunks, document_stores, documents, personas, windows

log = logging.getLogger(__name__)

DOCUMENTS_IN_PAGE = 500

Note = Callable[[str], None]


class Differences(msgspec.Struct, kw_only=True):
    """What did not agree, in entries unless it says otherwise."""

    stores: int = 0
    """Stores that were compared."""
    compared: int = 0
    missing: int = 0
    """Windows of visible documents that the index lacked."""
    extra: int = 0
    """Entries of the index that belong to no visible document."""
    dropped: int = 0
    """Collections of stores that no longer exist."""
    unembedded: int = 0
    """Documents that were visible though vectors of theirs are missing or another model's."""
    orphaned: int = 0
    """Documents that were in the store of a persona that is gone."""

    @property
    def agree(self) -> bool:
        """Whether nothing was found."""
        return not (self.missing or self.extra or self.dropped or self.unembedded or self.orphaned)


def compare(
    database: Database, vectors: VectorIndex, *, repair: bool, model: str = "", note: Note = lambda _: None
) -> Differences:
    """Compare every store, and repair what differs if asked to.

    `model`: documents embedded by another one count as without vectors; empty takes any. Such documents go back to
    state `embedding` and wait for a job. Raises VectorStoreDown; what was repaired until then stays so.
    """
    found = Differences(unembedded=_unembedded(database, model, repair=repair))
    living = _stores(database)
    found.orphaned = _orphaned(database, repair=repair)
    collections = vectors.stores()
    for store in sorted(set(collections) - living):
        note(f"store {store} no longer exists")
        found.dropped += 1
        if repair:
            vectors.drop(store)
    for store in sorted(living):
        note(f"comparing store {store}")
        found.stores += 1
        _find_missing(database, vectors, store, found, repair=repair)
        if store in collections:
            _find_extra(database, vectors, store, found, repair=repair)
    return found


def rebuild(database: Database, vectors: VectorIndex, note: Note = lambda _: None) -> int:
    """Make the whole index anew from the vectors in the records, store by store. Returns the number of entries.

    A store that is being made anew finds less by meaning until it is done; full-text search is not concerned.
    """
    for store in vectors.stores():
        vectors.drop(store)
    total = 0
    for store in sorted(_stores(database)):
        count = 0
        for rows in _visible_rows(database, store):
            put_rows(vectors, store, rows)
            count += len(rows)
        if count:
            note(f"store {store}: {count} entries")
        total += count
    return total


def _stores(database: Database) -> set[str]:
    """Stores that exist: the shared one and one per persona."""
    with database.read() as connection:
        return {SHARED_STORE, *connection.execute(sa.select(personas.c.id)).scalars()}


def _visible_rows(database: Database, store: str) -> Iterator[list[WindowRow]]:
    """The windows that the store's collection should have, about BATCH_MAX at once."""
    collected: list[WindowRow] = []
    for document_id in _visible_documents(database, store):
        for rows in document_rows(database, document_id):
            collected += rows
            if len(collected) >= BATCH_MAX:
                yield collected
                collected = []
    if collected:
        yield collected


def _visible_documents(database: Database, store: str) -> Iterator[str]:
    after = ""
    while True:
        query = (
            sa.select(documents.c.id)
            .join(document_stores, document_stores.c.document_id == documents.c.id)
            .where(document_stores.c.store == store, documents.c.state == "indexed", documents.c.id > after)
            .order_by(documents.c.id)
            .limit(DOCUMENTS_IN_PAGE)
        )
        with database.read() as connection:
            ids = list(connection.execute(query).scalars())
        if not ids:
            return
        yield from ids
        after = ids[-1]


def _find_missing(database: Database, vectors: VectorIndex, store: str, found: Differences, *, repair: bool) -> None:
    for rows in _visible_rows(database, store):
        found.compared += len(rows)
        there = vectors.present(store, [row.id for row in rows])
        missing = [row for row in rows if row.id not in there]
        found.missing += len(missing)
        if repair and missing:
            put_rows(vectors, store, missing)
            # deleted between the look and the storing: then it must not stay
            gone = {row.id for row in missing} - _belonging(database, store, [row.id for row in missing])
            vectors.delete(store, sorted(gone))


def _find_extra(database: Database, vectors: VectorIndex, store: str, found: Differences, *, repair: bool) -> None:
    offset = 0
    while entries := vectors.page(store, BATCH_MAX, offset):
        belonging = _belonging(database, store, [int(entry) for entry in entries if entry.isdecimal()])
        extra = [entry for entry in entries if not entry.isdecimal() or int(entry) not in belonging]
        found.extra += len(extra)
        if repair and extra:
            vectors.delete_entries(store, extra)
            offset -= len(extra)
        offset += len(entries)


def _belonging(database: Database, store: str, window_ids: Sequence[int]) -> set[int]:
    """Those of the windows that may be in the store's collection."""
    belongs = sa.exists().where(document_stores.c.document_id == documents.c.id, document_stores.c.store == store)
    with database.read() as connection:
        return set(owners(connection, window_ids, sa.and_(documents.c.state.in_(("indexed", "indexing")), belongs)))


def _orphaned(database: Database, *, repair: bool) -> int:
    """Taken out of that store, such a document is for nobody where it is in no other."""
    living = sa.exists().where(personas.c.id == document_stores.c.store)
    condition = sa.and_(document_stores.c.store != SHARED_STORE, ~living)
    if not repair:
        with database.read() as connection:
            query = sa.select(sa.func.count()).select_from(document_stores).where(condition)
            return connection.execute(query).scalar_one()
    with database.write() as connection:
        return connection.execute(document_stores.delete().where(condition)).rowcount


def _unembedded(database: Database, model: str, *, repair: bool) -> int:
    bare = (
        sa.exists()
        .where(chunks.c.document_id == documents.c.id, windows.c.chunk_id == chunks.c.id, windows.c.vector.is_(None))
        .correlate(documents)
    )
    wrong = sa.or_(bare, documents.c.embedded_by != model) if model else bare
    condition = sa.and_(documents.c.state == "indexed", wrong)
    if not repair:
        with database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).where(condition).select_from(documents)).scalar_one()
    with database.write() as connection:
        changed = documents.update().where(condition).values(state="embedding", state_at=time.time(), job_id=None)
        return connection.execute(changed).rowcount
