"""The vector index: one Chroma collection per store, whose entries are windows. It proposes; the records decide.

Vectors are bytes here, as the records hold them: float32, little-endian, normalised. What is in the index can be made
anew from the records at any time (reef/knowledge/consistency.py), so nothing here is ever the only copy.
"""

from __future__ import annotations

import base64
import hashlib
import re
import struct
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

from reef.knowledge.chroma import (
    ChromaClient,
    Collection,
    CollectionGone,
    Hnsw,
    Metadata,
    VectorsRefused,
    VectorStoreDown,
    Where,
)

__all__ = ["VectorIndex", "VectorStoreDown", "Vectors", "VectorsRefused"]

PREFIX = "reef-"
"""Names of our collections begin so; another's collections on the same server are left alone."""
BATCH_MAX = 1000
"""Entries in one request; the server takes 5,461."""
QUERY_K_MAX = 1000
HNSW = Hnsw(max_neighbors=32, ef_construction=200, ef_search=200, sync_threshold=2000)
"""Chosen for recall@10 over 0.98 at 100,000 entries: `make bench BENCH=knowledge_search`."""

_PLAIN_NAME = re.compile(r"[A-Za-z0-9._-]{0,63}[A-Za-z0-9]")
T = TypeVar("T")


class Vectors(Protocol):
    """What indexing and searching need of a place that holds vectors; `VectorIndex` says what each does."""

    def upsert(
        self, store: str, window_ids: Sequence[int], vectors: Sequence[bytes], metadatas: Sequence[Metadata]
    ) -> None:
        """Store windows, replacing what is there."""

    def delete(self, store: str, window_ids: Sequence[int]) -> None:
        """Delete windows."""

    def drop(self, store: str) -> None:
        """Drop a store with all its windows; no error where there is none."""

    def stores(self) -> list[str]:
        """Every store that has anything."""

    def query(
        self, stores: Sequence[str], vector: bytes, k: int, where: Where | None = None
    ) -> list[tuple[int, float]]:
        """The nearest windows with their cosines, best first."""


class VectorIndex:
    """All stores of one Chroma server. Thread-safe; nothing connects before the first call.

    Every method raises VectorStoreDown when the server does not answer, and VectorsRefused when it says no (vectors of
    another length than those that are there: another model made them).
    """

    def __init__(self, url: str, *, patient: bool = True) -> None:
        """`patient`: writes wait out a restart of the server (some 8 s); a web request should not."""
        self._client = ChromaClient(url, patient=patient)
        self._ids: dict[str, str] = {}
        self._lock = threading.Lock()

    def close(self) -> None:
        """Let go of the connections."""
        self._client.close()

    def upsert(
        self, store: str, window_ids: Sequence[int], vectors: Sequence[bytes], metadatas: Sequence[Metadata]
    ) -> None:
        """Store windows, replacing what is there under their ids. The collection is made at the first one."""
        for part in _batches(window_ids):
            ids = [str(window_id) for window_id in window_ids[part]]
            embeddings = [base64.b64encode(vector).decode() for vector in vectors[part]]
            self._in(store, self._client.upsert, ids, embeddings, list(metadatas[part]), make=True)

    def delete(self, store: str, window_ids: Sequence[int]) -> None:
        """Delete windows; unknown ones are ignored."""
        self.delete_entries(store, [str(window_id) for window_id in window_ids])

    def delete_entries(self, store: str, entries: Sequence[str]) -> None:
        """Delete entries by their name in the index, whatever it is."""
        for part in _batches(entries):
            self._in(store, self._client.delete, list(entries[part]))

    def query(
        self, stores: Sequence[str], vector: bytes, k: int, where: Where | None = None
    ) -> list[tuple[int, float]]:
        """Windows of these stores with their cosine similarity, the most similar first. At most k."""
        floats = struct.unpack(f"<{len(vector) // 4}f", vector)
        best: dict[int, float] = {}
        for store in stores:
            nearest = self._in(store, self._client.query, floats, min(k, QUERY_K_MAX), where)
            if nearest is None:
                continue
            for entry, distance in zip(nearest.ids[0], nearest.distances[0], strict=True):
                if entry.isdecimal() and distance is not None:
                    best[int(entry)] = max(best.get(int(entry), -1.0), 1.0 - distance)
        return sorted(best.items(), key=lambda item: -item[1])[:k]

    def count(self, store: str) -> int:
        """Number of windows in a store."""
        return self._in(store, self._client.count) or 0

    def present(self, store: str, window_ids: Sequence[int]) -> set[int]:
        """Those of the windows that are in the store."""
        found: set[int] = set()
        for part in _batches(window_ids):
            ids = [str(window_id) for window_id in window_ids[part]]
            found.update(map(int, self._in(store, self._client.present, ids) or ()))
        return found

    def page(self, store: str, limit: int, offset: int) -> list[str]:
        """Names of entries, in the order in which they were stored first."""
        return self._in(store, self._client.page, limit, offset) or []

    def stores(self) -> list[str]:
        """Every store that has a collection."""
        return [str((found.metadata or {}).get("store", "")) for found in self._ours()]

    def drop(self, store: str) -> None:
        """Drop a store with all its windows; no error where there is none."""
        self._client.delete_collection(collection_name(store))
        self._forget(store)

    def _ours(self) -> Iterator[Collection]:
        for found in self._client.collections():
            store = (found.metadata or {}).get("store")
            if isinstance(store, str) and found.name == collection_name(store):
                yield found

    def _in(self, store: str, call: Callable[..., T], *arguments: Any, make: bool = False) -> T | None:
        """Call with the id of the store's collection first; None where there is no such collection and none is made.

        A collection that another process dropped and made again has another id: then once more.
        """
        for remembered in (True, False):
            try:
                return call(self._collection_id(store, make=make), *arguments)
            except CollectionGone:
                known = self._forget(store)
                if not (remembered and (known or make)):
                    return None
        return None

    def _collection_id(self, store: str, *, make: bool) -> str:
        with self._lock:
            known = self._ids.get(store)
        if known is not None:
            return known
        name = collection_name(store)
        found = self._client.make_collection(name, {"store": store}, HNSW) if make else self._client.collection(name)
        with self._lock:
            self._ids[store] = found.id
        return found.id

    def _forget(self, store: str) -> bool:
        with self._lock:
            return self._ids.pop(store, None) is not None


def collection_name(store: str) -> str:
    """Chroma takes 3 to 512 letters, digits and ._- that end with a letter or digit; an id may have others."""
    if _PLAIN_NAME.fullmatch(store):
        return PREFIX + store
    return f"{PREFIX}x-{hashlib.sha256(store.encode()).hexdigest()[:40]}"


def _batches(items: Sequence[object]) -> Iterator[slice]:
    return (slice(begin, begin + BATCH_MAX) for begin in range(0, len(items), BATCH_MAX))
