"""Vectors that were computed before: tiers from fast and small to slow and large, asked in this order.

A key hashes the model's fingerprint, the prefix and the text; a value is the vector's float32 bytes. No text is kept.
"""

from __future__ import annotations

import hashlib
import logging
import sqlite3
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
KEY_BYTES = 20
ENTRY_OVERHEAD_BYTES = 200
"""What Python keeps around a cached vector, roughly; counted so that the limit means memory."""
SQLITE_VARIABLES_MAX = 500
log = logging.getLogger(__name__)


class Tier(Protocol):
    """One place for cached vectors. Thread-safe. A tier that fails is a miss, never an error."""

    name: str

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The values that are here."""

    def set_many(self, values: Mapping[bytes, bytes]) -> None:
        """Keep these, dropping older ones where the limit asks for it."""

    def close(self) -> None:
        """Release files and connections that this tier opened."""


@dataclass
class TierStats:
    """How often a tier was asked and knew."""

    name: str
    hits: int = 0
    misses: int = 0

    @property
    def hit_rate(self) -> float:
        return self.hits / max(self.hits + self.misses, 1)


class MemoryTier:
    """The least recently used entries beyond `limit_bytes` are dropped."""

    name = "memory"

    def __init__(self, limit_bytes: int = 64 << 20) -> None:
        self._limit_bytes = limit_bytes
        self._held: OrderedDict[bytes, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        with self._lock:
            found = {key: self._held[key] for key in keys if key in self._held}
            for key in found:
                self._held.move_to_end(key)
        return found

    def set_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._lock:
            for key, value in values.items():
                self._bytes -= self._size(self._held.pop(key, None))
                self._held[key] = value
                self._bytes += self._size(value)
            while self._bytes > self._limit_bytes:
                self._bytes -= self._size(self._held.popitem(last=False)[1])

    def close(self) -> None:
        self._held.clear()
        self._bytes = 0

    @staticmethod
    def _size(value: bytes | None) -> int:
        return 0 if value is None else len(value) + ENTRY_OVERHEAD_BYTES


class SqliteTier:
    """A file that survives the process; the entries written longest ago go beyond `entries_max`."""

    name = "sqlite"

    def __init__(self, path: Path, entries_max: int = 1_000_000) -> None:
        self._entries_max = entries_max
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None, timeout=5.0)
        self._base.execute("PRAGMA journal_mode=WAL")
        self._base.execute("PRAGMA synchronous=NORMAL")
        self._base.execute(
            "CREATE TABLE IF NOT EXISTS vectors (id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE, value BLOB NOT NULL)"
        )

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        found: dict[bytes, bytes] = {}
        with self._lock:
            for part in _parts(keys, SQLITE_VARIABLES_MAX):
                marks = ",".join("?" * len(part))
                found.update(self._base.execute(f"SELECT key, value FROM vectors WHERE key IN ({marks})", part))  # noqa: S608
        return found

    def set_many(self, values: Mapping[bytes, bytes]) -> None:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                self._base.executemany(
                    "INSERT OR REPLACE INTO vectors (key, value) VALUES (?, ?)", list(values.items())
                )
                last = self._base.execute("SELECT max(id) FROM vectors").fetchone()[0] or 0
                self._base.execute("DELETE FROM vectors WHERE id <= ?", (last - self._entries_max,))
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")

    def close(self) -> None:
        self._base.close()


class RedisTier:
    """Shared by processes and hosts. The client is the caller's, who also closes it; entries live for `ttl_s`."""

    name = "redis"

    def __init__(self, client: Any, *, prefix: str = "embeddings:", ttl_s: int = 7 * 24 * 3600) -> None:
        self._client, self._prefix, self._ttl_s = client, prefix.encode(), ttl_s

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        if not keys:
            return {}
        values = self._client.mget([self._prefix + key for key in keys])
        return {key: value for key, value in zip(keys, values, strict=True) if value is not None}

    def set_many(self, values: Mapping[bytes, bytes]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        for key, value in values.items():
            pipeline.set(self._prefix + key, value, ex=self._ttl_s)
        pipeline.execute()

    def close(self) -> None:
        """Nothing here is ours."""


class VectorCache:
    """Tiers in order; what a slow one knows is copied to the faster ones before it."""

    SILENT_S = 30.0
    """A tier that failed is left alone this long: a dead Redis must not delay every call by its timeout."""

    def __init__(self, *tiers: Tier) -> None:
        self.tiers = tiers
        self._stats = [TierStats(tier.name) for tier in tiers]
        self._silent_until = [0.0] * len(tiers)
        self._lock = threading.Lock()

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, Vectors]:
        """The vectors that some tier has."""
        found: dict[bytes, bytes] = {}
        for index, tier in enumerate(self.tiers):
            missing = [key for key in keys if key not in found]
            if not missing or self._is_silent(index):
                continue
            try:
                here = tier.get_many(missing)
            except Exception as error:  # noqa: BLE001  (whatever a client raises, the vector can be computed)
                self._silence(index, error)
                continue
            with self._lock:
                self._stats[index].hits += len(here)
                self._stats[index].misses += len(missing) - len(here)
            self._store(range(index), here)
            found |= here
        return {key: np.frombuffer(value, dtype="<f4") for key, value in found.items()}

    def set_many(self, vectors: Mapping[bytes, Vectors]) -> None:
        """Keep vectors in every tier."""
        values = {key: np.asarray(vector, dtype="<f4").tobytes() for key, vector in vectors.items()}
        self._store(range(len(self.tiers)), values)

    def stats(self) -> list[TierStats]:
        with self._lock:
            return [TierStats(one.name, one.hits, one.misses) for one in self._stats]

    def close(self) -> None:
        for tier in self.tiers:
            tier.close()

    def _store(self, indices: Iterable[int], values: Mapping[bytes, bytes]) -> None:
        for index in indices:
            if not values or self._is_silent(index):
                continue
            try:
                self.tiers[index].set_many(values)
            except Exception as error:  # noqa: BLE001  (a cache that cannot be written is no failure of the call)
                self._silence(index, error)

    def _is_silent(self, index: int) -> bool:
        return time.monotonic() < self._silent_until[index]

    def _silence(self, index: int, error: Exception) -> None:
        self._silent_until[index] = time.monotonic() + self.SILENT_S
        log.warning(
            "the %s cache failed (%s); it is not asked for %.0f s", self.tiers[index].name, error, self.SILENT_S
        )


def cache_key(fingerprint: str, prefix: str, text: str) -> bytes:
    """What a vector is found by."""
    parts = (fingerprint.encode(), prefix.encode(), text.encode("utf-8", "surrogatepass"))
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.digest()


def _parts(keys: Sequence[bytes], size: int) -> Iterable[Sequence[bytes]]:
    return (keys[at : at + size] for at in range(0, len(keys), size))
