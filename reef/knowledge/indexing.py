"""reef.ports.KnowledgeIndex over a vector index and the full-text index. The records alone decide what is visible.

Windows go into the index before their document becomes visible, and out of it after it has become invisible. So a
crash leaves entries that nobody sees, which the next round or the checker (reef/knowledge/consistency.py) removes;
it never leaves a document that is visible without being searchable. One process writes at a time: the index worker.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager

import msgspec
import numpy as np
import sqlalchemy as sa
from numpy.typing import NDArray

from reef.contracts.jobs import QueryFilters, QueryJob
from reef.knowledge.chroma import Metadata
from reef.knowledge.model import Passage
from reef.knowledge.reranking import Reranking
from reef.knowledge.retrieval import SIMILARITY_MIN, Retriever
from reef.knowledge.vectors import BATCH_MAX, Vectors, VectorsRefused, VectorStoreDown
from reef.knowledge.visible import Filters
from reef.ports import EngineError
from reef.records.database import Database
from reef.records.tables import chunks, document_stores, documents, windows

IDS_IN_QUERY_MAX = 500


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


class PassageIndex:
    """reef.ports.KnowledgeIndex. Thread-safe."""

    def __init__(self, database: Database, vectors: Vectors, reranking: Reranking | None = None) -> None:
        self._database, self._vectors, self._reranking = database, vectors, reranking

    def put(self, document_ids: Sequence[str], progressed: Callable[[], None]) -> None:
        """Store the windows of these documents, those of many small ones together. Raises EngineError."""
        with _reported():
            stores, known = self._stores(document_ids)
            collected: dict[str, list[WindowRow]] = defaultdict(list)
            for document_id in document_ids:
                for rows in document_rows(self._database, document_id):
                    for store in stores[document_id]:
                        collected[store] += rows
                        if len(collected[store]) >= BATCH_MAX:
                            put_rows(self._vectors, store, collected.pop(store))
                            progressed()
            for store, rest in collected.items():
                put_rows(self._vectors, store, rest)
                progressed()
            if known:  # they may have been moved out of a store
                self._take_out(known, {document_id: stores[document_id] for document_id in known}, progressed)

    def drop(self, document_ids: Sequence[str], progressed: Callable[[], None]) -> None:
        """Delete the entries of these documents from every store. Raises EngineError."""
        with _reported():
            self._take_out(document_ids, {}, progressed)

    def drop_store(self, store: str) -> None:
        """Drop the store's collection. Raises EngineError."""
        with _reported():
            self._vectors.drop(store)

    def search(self, job: QueryJob, vector: NDArray[np.float32]) -> list[Passage]:
        """The passages that answer, by meaning and by words. Raises EngineError where Chroma is away."""
        with _reported():
            return self._find(job, lambda _: vector)

    def search_words(self, job: QueryJob) -> list[Passage]:
        """The passages that have the question's words: what can be found while Chroma is away."""
        return Retriever(self._database, self._vectors, _no_vector, self._reranking).retrieve(
            job.question, job.stores, k=job.k, filters=filters_of(job.filters), mode="text"
        )

    def _find(self, job: QueryJob, embed: Callable[[str], NDArray[np.float32]]) -> list[Passage]:
        return Retriever(self._database, self._vectors, embed, self._reranking).retrieve(
            job.question,
            job.stores,
            k=job.k,
            filters=filters_of(job.filters),
            similarity_min=SIMILARITY_MIN if job.score_min is None else job.score_min,
        )

    def _stores(self, document_ids: Sequence[str]) -> tuple[dict[str, set[str]], list[str]]:
        """The stores of each document, and those documents that were indexed before."""
        stores: dict[str, set[str]] = defaultdict(set)
        known: list[str] = []
        with self._database.read() as connection:
            for part in _parts(document_ids):
                query = sa.select(document_stores.c.document_id, document_stores.c.store)
                for document_id, store in connection.execute(query.where(document_stores.c.document_id.in_(part))):
                    stores[document_id].add(store)
                before = sa.and_(documents.c.id.in_(part), documents.c.indexed_at.is_not(None))
                known += connection.execute(sa.select(documents.c.id).where(before)).scalars()
        return stores, known

    def _take_out(self, document_ids: Sequence[str], keep: dict[str, set[str]], progressed: Callable[[], None]) -> None:
        collections = self._vectors.stores()
        for document_id in document_ids:
            ids = self._window_ids(document_id)
            for store in collections:
                if store not in keep.get(document_id, ()):
                    self._vectors.delete(store, ids)
            progressed()

    def _window_ids(self, document_id: str) -> list[int]:
        query = sa.select(windows.c.id).join(chunks, chunks.c.id == windows.c.chunk_id)
        with self._database.read() as connection:
            return list(connection.execute(query.where(chunks.c.document_id == document_id)).scalars())


def filters_of(asked: QueryFilters) -> Filters:
    """What a job asks for, as the search knows it."""
    return Filters(
        document_ids=tuple(asked.document_ids),
        name_prefix=asked.name_prefix,
        language=asked.language,
        mime_type=asked.mime_type,
    )


def document_rows(database: Database, document_id: str) -> Iterator[list[WindowRow]]:
    """The windows of a document in pages, so that the largest one fits into memory."""
    after = 0
    while True:
        query = (
            sa.select(windows.c.id, windows.c.vector, documents.c.language, documents.c.mime_type)
            .join(chunks, chunks.c.id == windows.c.chunk_id)
            .join(documents, documents.c.id == chunks.c.document_id)
            .where(documents.c.id == document_id, windows.c.id > after, windows.c.vector.is_not(None))
            .order_by(windows.c.id)
            .limit(BATCH_MAX)
        )
        with database.read() as connection:
            rows = [WindowRow(*row) for row in connection.execute(query)]
        if not rows:
            return
        yield rows
        after = rows[-1].id


def put_rows(vectors: Vectors, store: str, rows: Sequence[WindowRow]) -> None:
    """Store these windows in one store."""
    vectors.upsert(store, [row.id for row in rows], [row.vector for row in rows], [row.metadata for row in rows])


def _no_vector(_question: str) -> NDArray[np.float32]:
    raise RuntimeError("a search by words compares no vectors")


@contextmanager
def _reported() -> Iterator[None]:
    """Say what is wrong with the vector store as the ledger's jobs understand it."""
    try:
        yield
    except VectorStoreDown as error:
        raise EngineError(f"The vector store does not answer: {error}") from error
    except VectorsRefused as error:
        raise EngineError(f"The vector store refuses these vectors: {error}. `coral-reef doctor` says more.") from error


def _parts(ids: Collection[str]) -> Iterator[Sequence[str]]:
    listed = list(ids)
    return (listed[begin : begin + IDS_IN_QUERY_MAX] for begin in range(0, len(listed), IDS_IN_QUERY_MAX))
