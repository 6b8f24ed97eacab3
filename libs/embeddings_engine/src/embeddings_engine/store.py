"""A small vector store: exact search in memory, saved to one file. Beyond some 100,000 vectors use a database."""

from __future__ import annotations

import json
import os
import threading
import uuid
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Metadata = Mapping[str, Any]
_FIRST_ROWS = 256


@dataclass(frozen=True)
class Match:
    """One vector found."""

    id: str
    score: float
    """Cosine similarity with what was searched."""
    metadata: Metadata


class VectorStore:
    """Keeps normalised vectors with JSON metadata. Thread-safe. Search compares with every vector, so it is exact:
    0.3 ms for 10,000 of 384 dimensions, 6 ms for 100,000 (bench: `store`).
    """

    def __init__(self) -> None:
        self._rows: NDArray[np.float32] | None = None
        self._ids: list[str] = []
        self._metadata: list[Metadata] = []
        self._at: dict[str, int] = {}
        self._lock = threading.RLock()

    def __len__(self) -> int:
        return len(self._ids)

    def insert(self, embedding: NDArray[np.float32], metadata: Metadata | None = None, *, id: str | None = None) -> str:
        """Keep one vector and return its id; an id that is there already is replaced. Raises ValueError."""
        vector = np.asarray(embedding, dtype=np.float32)
        length = float(np.linalg.norm(vector))
        if vector.ndim != 1 or not np.isfinite(length) or length == 0:
            raise ValueError(f"an embedding is one row of finite numbers, not all zero; this has shape {vector.shape}.")
        name = uuid.uuid4().hex if id is None else id
        with self._lock:
            rows = self._room(vector.size)
            at = self._at.setdefault(name, len(self._ids))
            if at == len(self._ids):
                self._ids.append(name)
                self._metadata.append({})
            rows[at], self._metadata[at] = vector / length, dict(metadata or {})
        return name

    def search(self, embedding: NDArray[np.float32], k: int = 10, where: Metadata | None = None) -> list[Match]:
        """The `k` most similar, best first; `where` keeps those whose metadata has all these values."""
        query = np.asarray(embedding, dtype=np.float32)
        with self._lock:
            if self._rows is None or not self._ids:
                return []
            if query.shape != (self._rows.shape[1],):
                raise ValueError(
                    f"the store holds {self._rows.shape[1]} dimensions; the query has shape {query.shape}."
                )
            rows = self._rows[: len(self._ids)]
            chosen = np.arange(len(self._ids))
            if where:
                wanted = where.items()
                chosen = np.array([at for at in chosen if all(self._metadata[at].get(k) == v for k, v in wanted)], int)
                rows = rows[chosen]
            scores = rows @ (query / max(float(np.linalg.norm(query)), 1e-12))
            best = _best(scores, k)
            return [
                Match(self._ids[at], float(scores[index]), self._metadata[at])
                for index, at in zip(best, chosen[best], strict=True)
            ]

    def delete(self, id: str) -> bool:
        """Forget one vector; says whether it was there."""
        with self._lock:
            at = self._at.pop(id, None)
            if at is None or self._rows is None:
                return False
            last = len(self._ids) - 1
            if at != last:
                self._rows[at], self._ids[at], self._metadata[at] = (
                    self._rows[last],
                    self._ids[last],
                    self._metadata[last],
                )
                self._at[self._ids[at]] = at
            self._ids.pop()
            self._metadata.pop()
            return True

    def save(self, path: Path) -> None:
        """Write one file, whole or not at all."""
        with self._lock:
            rows = np.empty((0, 0), np.float32) if self._rows is None else self._rows[: len(self._ids)]
            notes = json.dumps({"ids": self._ids, "metadata": [dict(one) for one in self._metadata]})
            part = path.with_name(f"{path.name}.part")
            with part.open("wb") as file:
                np.savez(file, rows=rows, notes=np.frombuffer(notes.encode(), np.uint8))
                file.flush()
                os.fsync(file.fileno())
        os.replace(part, path)

    @classmethod
    def load(cls, path: Path) -> VectorStore:
        """Read a saved store. Raises ValueError for any other file."""
        store = cls()
        try:
            with path.open("rb") as file, np.load(file, allow_pickle=False) as data:
                rows, notes = data["rows"], json.loads(data["notes"].tobytes())
        except (KeyError, ValueError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path} is not a saved vector store ({error}).") from error
        store._ids, store._metadata = notes["ids"], notes["metadata"]
        store._at = {name: at for at, name in enumerate(store._ids)}
        store._rows = np.array(rows) if len(rows) else None
        return store

    def _room(self, dimensions: int) -> NDArray[np.float32]:
        if self._rows is None or (not self._ids and self._rows.shape[1] != dimensions):
            self._rows = np.empty((_FIRST_ROWS, dimensions), np.float32)
        if self._rows.shape[1] != dimensions:
            raise ValueError(f"the store holds {self._rows.shape[1]} dimensions; this vector has {dimensions}.")
        if len(self._ids) == len(self._rows):
            self._rows = np.concatenate([self._rows, np.empty_like(self._rows)])
        return self._rows


def _best(scores: NDArray[np.float32], k: int) -> NDArray[np.intp]:
    if k >= scores.size:
        return np.argsort(-scores, kind="stable")
    part = np.argpartition(-scores, max(k, 0))[: max(k, 0)]
    return np.asarray(part[np.argsort(-scores[part], kind="stable")])
