"""Chroma's HTTP interface (v2), as much of it as an index of vectors needs. Nothing of ours: no store, no document.

Not chromadb's own client: that has no time limit, and importing it costs a worker 0.7 s and 60 MB
(docs/decisions/0008-vector-index.md). Every call here may be repeated without harm, and is, a limited number of times.
"""

from __future__ import annotations

import random
import time
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeVar
from urllib.parse import quote

import httpx
import msgspec

TENANT, DATABASE = "default_tenant", "default_database"
CONNECTIONS_MAX = 16
CONNECT_TIMEOUT_S = 1.0
READ_TIMEOUT_S = 5.0
"""Of a question. A query takes milliseconds, one with a filter tenths of a second."""
WRITE_TIMEOUT_S = 60.0
READ_TRIES_MAX, WRITE_TRIES_MAX = 2, 8
"""A write waits out a restart of the server (1-4 s); a person who asks does not."""
PAUSE_FIRST_S, PAUSE_MAX_S = 0.1, 2.0
LISTED_PAGE = 500

Metadata = Mapping[str, str | int | float | bool]
Where = Mapping[str, Any]
T = TypeVar("T")


class VectorStoreDown(Exception):
    """The vector store does not answer. What is stored is not lost; only questions to documents fail meanwhile."""


class VectorsRefused(ValueError):
    """The vector store understood and said no; the message has its reason. A repetition would not help."""


class CollectionGone(LookupError):
    """There is no such collection (any more)."""


class Collection(msgspec.Struct, frozen=True):
    """A collection as the server describes it. `dimension` is None until the first vector."""

    id: str
    name: str
    metadata: dict[str, Any] | None = None
    dimension: int | None = None


class Hnsw(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of a collection's graph."""

    space: Literal["cosine", "l2", "ip"] = "cosine"
    max_neighbors: int
    ef_construction: int
    ef_search: int
    sync_threshold: int
    """The graph is written to disk after so many changes; until then they are replayed from the log at a restart."""


class Nearest(msgspec.Struct, frozen=True):
    """Answer to a query of one vector: entries and their distances, the nearest first."""

    ids: list[list[str]]
    distances: list[list[float | None]]


class _Ids(msgspec.Struct, frozen=True):
    ids: list[str]


class _Failure(msgspec.Struct, frozen=True):
    error: str = ""
    message: str = ""


class ChromaClient:
    """A connection pool to one Chroma server. Thread-safe; nothing connects before the first call."""

    def __init__(self, url: str, *, patient: bool = True) -> None:
        """`url` may carry a user and password for a server behind a proxy.

        `patient`: writes wait out a restart of the server; not where a person waits for the answer.
        """
        self._write_tries_max = WRITE_TRIES_MAX if patient else READ_TRIES_MAX
        self._base = f"/api/v2/tenants/{TENANT}/databases/{DATABASE}"
        self._http = httpx.Client(
            base_url=url.rstrip("/"),
            limits=httpx.Limits(max_connections=CONNECTIONS_MAX, max_keepalive_connections=CONNECTIONS_MAX),
            timeout=httpx.Timeout(READ_TIMEOUT_S, connect=CONNECT_TIMEOUT_S),
            trust_env=False,
        )
        self._shown = f"{self._http.base_url.scheme}://{self._http.base_url.host}:{self._http.base_url.port or ''}"

    def close(self) -> None:
        """Let go of the connections."""
        self._http.close()

    def collections(self) -> list[Collection]:
        """All collections of the server."""
        found: list[Collection] = []
        while True:
            path = f"/collections?limit={LISTED_PAGE}&offset={len(found)}"
            page = self._read("GET", path, None, list[Collection])
            found += page
            if len(page) < LISTED_PAGE:
                return found

    def collection(self, name: str) -> Collection:
        """A collection by its name. Raises CollectionGone."""
        return self._read("GET", f"/collections/{quote(name, safe='')}", None, Collection)

    def make_collection(self, name: str, metadata: Metadata, hnsw: Hnsw) -> Collection:
        """The collection of this name, made where there is none."""
        body = {
            "name": name,
            "get_or_create": True,
            "metadata": metadata,
            "configuration": {"hnsw": msgspec.to_builtins(hnsw)},
        }
        return self._write("POST", "/collections", body, Collection)

    def delete_collection(self, name: str) -> None:
        """Drop a collection; no error where there is none."""
        try:
            self._write("DELETE", f"/collections/{quote(name, safe='')}", None, object)
        except CollectionGone:
            return

    def upsert(
        self, collection_id: str, ids: Sequence[str], embeddings: Sequence[str], metadatas: Sequence[Metadata]
    ) -> None:
        """Store entries. `embeddings` are base64 of float32, little-endian."""
        body = {"ids": ids, "embeddings": embeddings, "metadatas": metadatas}
        self._write("POST", f"/collections/{collection_id}/upsert", body, object)

    def delete(self, collection_id: str, ids: Sequence[str]) -> None:
        """Delete entries; unknown ones are ignored."""
        self._write("POST", f"/collections/{collection_id}/delete", {"ids": ids}, object)

    def query(self, collection_id: str, vector: Sequence[float], k: int, where: Where | None) -> Nearest:
        """The k entries nearest to a vector."""
        body: dict[str, Any] = {"query_embeddings": [vector], "n_results": k, "include": ["distances"]}
        if where:
            body["where"] = where
        return self._read("POST", f"/collections/{collection_id}/query", body, Nearest)

    def page(self, collection_id: str, limit: int, offset: int) -> list[str]:
        """Entry ids, in the order in which they were first stored."""
        body = {"limit": limit, "offset": offset, "include": []}
        return self._read("POST", f"/collections/{collection_id}/get", body, _Ids).ids

    def present(self, collection_id: str, ids: Sequence[str]) -> list[str]:
        """Those of the ids that have an entry."""
        return self._read("POST", f"/collections/{collection_id}/get", {"ids": ids, "include": []}, _Ids).ids

    def count(self, collection_id: str) -> int:
        """Number of entries."""
        return self._read("GET", f"/collections/{collection_id}/count", None, int)

    def _read(self, method: str, path: str, body: Any, kind: type[T]) -> T:
        return self._ask(method, path, body, kind, READ_TIMEOUT_S, READ_TRIES_MAX)

    def _write(self, method: str, path: str, body: Any, kind: type[T]) -> T:
        return self._ask(method, path, body, kind, WRITE_TIMEOUT_S, self._write_tries_max)

    def _ask(self, method: str, path: str, body: Any, kind: type[T], timeout_s: float, tries_max: int) -> T:
        content = None if body is None else msgspec.json.encode(body)
        timeout = httpx.Timeout(timeout_s, connect=CONNECT_TIMEOUT_S)
        pause_s = PAUSE_FIRST_S
        for attempt in range(1, tries_max + 1):
            try:
                answer = self._http.request(
                    method,
                    self._base + path,
                    content=content,
                    timeout=timeout,
                    headers={"Content-Type": "application/json"},
                )
                if answer.status_code < 500 and answer.status_code != 429:
                    return _value(answer, kind)
                reason = f"{answer.status_code} {answer.text[:200]}"
            except httpx.TransportError as error:
                reason = f"{type(error).__name__}: {error}"
            if attempt < tries_max:
                time.sleep(pause_s * (0.5 + random.random()))  # noqa: S311 - only to keep two clients apart
                pause_s = min(pause_s * 2, PAUSE_MAX_S)
        raise VectorStoreDown(
            f"The vector store at {self._shown} did not answer in {tries_max} tries ({reason}). "
            "`coral-reef status` shows whether it runs; REEF_CHROMA_URL names a remote one."
        )


def _value(answer: httpx.Response, kind: type[T]) -> T:
    if answer.status_code < 300:
        try:
            return msgspec.json.decode(answer.content, type=kind)
        except msgspec.DecodeError as error:
            raise VectorStoreDown(f"{answer.request.url} is no Chroma server: {error}") from None
    try:
        failure = msgspec.json.decode(answer.content, type=_Failure)
    except msgspec.DecodeError:
        failure = _Failure("", answer.text[:200])
    if answer.status_code == 404:
        raise CollectionGone(failure.message)
    raise VectorsRefused(f"The vector store refused: {answer.status_code} {failure.message or failure.error}")
