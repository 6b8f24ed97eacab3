"""What changes in the vector index, in an order that a crash at any point leaves right or repairable.

Windows go into the index before their document becomes visible, and out of it after it has become invisible. So a
crash leaves entries that nobody sees, which the next round or the checker (reef/knowledge/consistency.py) removes;
it never leaves a document that is visible without being searchable. One process writes at a time: the index worker.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

import msgspec
import sqlalchemy as sa

from reef.knowledge.chroma import Metadata
from reef.knowledge.vectors import BATCH_MAX, VectorIndex, VectorStoreDown
from reef.records.database import Database
from reef.records.tables import chunks, document_stores, documents, windows

log = logging.getLogger(__name__)

GROUP_WINDOWS = 1_000
"""Small documents are made visible together, once they have so many windows; a large one alone."""
IDS_IN_QUERY_MAX = 500

Guard = Callable[[sa.Connection], bool]
"""Asked inside each transaction that changes a document's state: whether the caller's claim is still valid."""


class LostClaim(Exception):
    """The job of this work was given to another; nothing more may be written."""


class Indexed(msgspec.Struct):
    """What one round of indexing did."""

    documents: int = 0
    windows: int = 0
    replaced: int = 0
    """Older documents of the same name whose place was taken."""


class WindowRow(msgspec.Struct, frozen=True):
    """A window as the vector index takes it."""

    id: int
    vector: bytes
    language: str
    mime_type: str

    @property
    def metadata(self) -> Metadata:
        """What Chroma can filter by."""
        return {"language": self.language, "mime_type": self.mime_type}


class _Group(msgspec.Struct):
    """Documents that become visible in one transaction, and the stores their windows were put into."""

    stores: dict[str, frozenset[str]] = {}
    window_ids: dict[str, list[int]] = {}

    @property
    def full(self) -> bool:
        return sum(map(len, self.window_ids.values())) >= GROUP_WINDOWS


def index_pending(
    database: Database,
    vectors: VectorIndex,
    limit: int,
    *,
    document_ids: Collection[str] | None = None,
    guard: Guard = lambda _: True,
) -> Indexed:
    """Index at most `limit` documents that wait for it and whose windows all have vectors, the oldest first.

    `document_ids` limits it to the documents of a job. Raises VectorStoreDown, VectorsRefused, and LostClaim.
    Repeating it is safe: what a crashed round had stored is stored again under the same ids.
    """
    done = Indexed()
    group = _Group()
    for document_id, stores in _waiting(database, limit, document_ids):
        group.window_ids[document_id] = _put(database, vectors, document_id, stores)
        group.stores[document_id] = stores
        if group.full:
            _show(database, vectors, group, guard, done)
            group = _Group()
    _show(database, vectors, group, guard, done)
    clear_replaced(database, vectors, limit)
    return done


def clear_replaced(database: Database, vectors: VectorIndex, limit: int) -> int:
    """Remove the passages of documents whose place was taken, from the index first. Returns how many documents.

    A document keeps its chunks until its entries are gone, so what fails here is tried again in the next round.
    """
    with database.read() as connection:
        has_chunks = sa.exists().where(chunks.c.document_id == documents.c.id)
        old = sa.select(documents.c.id).where(documents.c.state == "replaced", has_chunks).limit(limit)
        ids = list(connection.execute(old).scalars())
        stores = _stores(connection, ids)
    for document_id in ids:
        _take_out(vectors, stores[document_id], list(_window_ids(database, document_id)))
        with database.write() as connection:
            connection.execute(chunks.delete().where(chunks.c.document_id == document_id))
    return len(ids)


def forget(database: Database, vectors: VectorIndex, document_id: str) -> bool:
    """Delete a document with all that was made from it. False where there is none.

    It is invisible at once; entries that cannot be removed now (the vector store is down) are left to the checker.
    """
    ids = list(_window_ids(database, document_id))
    with database.write() as connection:
        stores = _stores(connection, [document_id])[document_id]
        gone = connection.execute(documents.delete().where(documents.c.id == document_id)).rowcount
    try:
        _take_out(vectors, stores, ids)
    except VectorStoreDown:
        log.warning("document %s is deleted; %d entries of it stay in the vector index", document_id, len(ids))
    return bool(gone)


def assign(database: Database, vectors: VectorIndex, document_id: str, stores: Collection[str]) -> bool:
    """Put a document into exactly these stores. False where there is no such document.

    The records are changed first, and count even where the vector store is down (VectorStoreDown is raised then): the
    checker brings the index up to them.
    """
    wanted = frozenset(stores)
    with database.write() as connection:
        state = connection.execute(sa.select(documents.c.state).where(documents.c.id == document_id)).scalar()
        if state is None:
            return False
        before = _stores(connection, [document_id])[document_id]
        mine = document_stores.c.document_id == document_id
        connection.execute(document_stores.delete().where(mine, document_stores.c.store.in_(before - wanted)))
        if added := wanted - before:
            connection.execute(
                document_stores.insert(), [{"document_id": document_id, "store": store} for store in sorted(added)]
            )
    if state == "indexed":
        _put(database, vectors, document_id, added)
    _take_out(vectors, before - wanted, list(_window_ids(database, document_id)))
    return True


def window_rows(connection: sa.Connection, condition: sa.ColumnElement[bool], after: int) -> list[WindowRow]:
    """The next windows with vectors by id, at most BATCH_MAX."""
    rows = connection.execute(
        sa.select(windows.c.id, windows.c.vector, documents.c.language, documents.c.mime_type)
        .join(chunks, chunks.c.id == windows.c.chunk_id)
        .join(documents, documents.c.id == chunks.c.document_id)
        .where(condition, windows.c.id > after, windows.c.vector.is_not(None))
        .order_by(windows.c.id)
        .limit(BATCH_MAX)
    )
    return [WindowRow(*row) for row in rows]


def put_rows(vectors: VectorIndex, store: str, rows: Sequence[WindowRow]) -> None:
    """Store these windows in one store."""
    vectors.upsert(store, [row.id for row in rows], [row.vector for row in rows], [row.metadata for row in rows])


def _waiting(database: Database, limit: int, document_ids: Collection[str] | None) -> list[tuple[str, frozenset[str]]]:
    """Documents that can be indexed now, with their stores."""
    count = sa.func.count(windows.c.id)
    query = (
        sa.select(documents.c.id)
        .join(chunks, chunks.c.document_id == documents.c.id)
        .join(windows, windows.c.chunk_id == chunks.c.id)
        .where(documents.c.state == "indexing")
        .group_by(documents.c.id, documents.c.created_at)
        .having(count == sa.func.count(windows.c.vector))
        .order_by(documents.c.created_at, documents.c.id)
        .limit(limit)
    )
    if document_ids is not None:
        query = query.where(documents.c.id.in_(list(document_ids)))
    with database.read() as connection:
        found = list(connection.execute(query).scalars())
        stores = _stores(connection, found)
    return [(document_id, frozenset(stores[document_id])) for document_id in found]


def _put(database: Database, vectors: VectorIndex, document_id: str, stores: Collection[str]) -> list[int]:
    """Store a document's windows; returns their ids."""
    ids: list[int] = []
    while stores:
        with database.read() as connection:
            rows = window_rows(connection, documents.c.id == document_id, ids[-1] if ids else 0)
        if not rows:
            break
        for store in sorted(stores):
            put_rows(vectors, store, rows)
        ids += [row.id for row in rows]
    return ids


def _show(database: Database, vectors: VectorIndex, group: _Group, guard: Guard, done: Indexed) -> None:
    """Make a group visible, and its older namesakes invisible, in one transaction."""
    if not group.stores:
        return
    with database.write() as connection:
        if not guard(connection):
            raise LostClaim
        still = list(_still_waiting(connection, group.stores))
        now = _stores(connection, still)
        # a store that was added meanwhile has no entries yet: the document waits for the next round
        shown = [document_id for document_id in still if now[document_id] <= group.stores[document_id]]
        moment = time.time()
        losses: dict[str, set[str]] = {}
        for part in _parts(shown):
            values = {"state": "indexed", "state_at": moment, "indexed_at": moment}
            connection.execute(documents.update().where(documents.c.id.in_(part)).values(values))
            losses |= _namesakes(connection, part)
        done.replaced += sum(_lose(connection, document_id, lost, moment) for document_id, lost in losses.items())
    done.documents += len(shown)
    done.windows += sum(len(group.window_ids[document_id]) for document_id in shown)
    for document_id, stores in group.stores.items():
        # deleted, cancelled, or taken out of a store while it was being stored
        _take_out(vectors, stores - now[document_id], group.window_ids[document_id])
    for document_id, lost in losses.items():
        _take_out(vectors, lost, list(_window_ids(database, document_id)))


def _still_waiting(connection: sa.Connection, ids: Iterable[str]) -> Iterator[str]:
    for part in _parts(list(ids)):
        query = sa.select(documents.c.id).where(documents.c.id.in_(part), documents.c.state == "indexing")
        yield from connection.execute(query.with_for_update()).scalars()


def _namesakes(connection: sa.Connection, ids: Sequence[str]) -> dict[str, set[str]]:
    """Which documents must leave which stores, because a newer one of the same name is indexed there.

    The newest stays, whichever was ready first: one of `ids` can lose as well.
    """
    new, old = documents.alias("new"), documents.alias("old")
    theirs, its = document_stores.alias("theirs"), document_stores.alias("its")
    newer = sa.or_(
        new.c.created_at > old.c.created_at, sa.and_(new.c.created_at == old.c.created_at, new.c.id > old.c.id)
    )
    pairs = connection.execute(
        sa.select(old.c.id, its.c.store)
        .join(new, sa.and_(new.c.name == old.c.name, new.c.state == "indexed", old.c.state == "indexed", newer))
        .join(its, its.c.document_id == old.c.id)
        .join(theirs, sa.and_(theirs.c.document_id == new.c.id, theirs.c.store == its.c.store))
        .where(sa.or_(new.c.id.in_(ids), old.c.id.in_(ids)))
    )
    losses: dict[str, set[str]] = defaultdict(set)
    for document_id, store in pairs:
        losses[document_id].add(store)
    return losses


def _lose(connection: sa.Connection, document_id: str, stores: set[str], moment: float) -> bool:
    """Take a document out of these stores; true where it was in no other, and is replaced altogether."""
    if _stores(connection, [document_id])[document_id] != stores:
        mine = document_stores.c.document_id == document_id
        connection.execute(document_stores.delete().where(mine, document_stores.c.store.in_(stores)))
        return False
    # it keeps its stores: a person sees where it was, and its entries can be found until they are removed
    which = documents.update().where(documents.c.id == document_id)
    connection.execute(which.values(state="replaced", state_at=moment))
    return True


def _stores(connection: sa.Connection, ids: Sequence[str]) -> dict[str, set[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for part in _parts(ids):
        query = sa.select(document_stores.c.document_id, document_stores.c.store)
        for document_id, store in connection.execute(query.where(document_stores.c.document_id.in_(part))):
            found[document_id].add(store)
    return found


def _window_ids(database: Database, document_id: str) -> Iterator[int]:
    query = sa.select(windows.c.id).join(chunks, chunks.c.id == windows.c.chunk_id)
    with database.read() as connection:
        yield from connection.execute(query.where(chunks.c.document_id == document_id)).scalars()


def _take_out(vectors: VectorIndex, stores: Iterable[str], window_ids: Sequence[int]) -> None:
    for store in stores:
        vectors.delete(store, window_ids)


def _parts(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    return (ids[begin : begin + IDS_IN_QUERY_MAX] for begin in range(0, len(ids), IDS_IN_QUERY_MAX))
