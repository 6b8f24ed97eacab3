"""A file that takes longer than a lease is read once: it is watched meanwhile, and that renews the lease."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec
import pytest
import sqlalchemy as sa
from tokenizers import Tokenizer, models, pre_tokenizers
from workshop import Workshop

from reef.contracts.jobs import ParseJob
from reef.knowledge.chunking import ChunkSizes
from reef.knowledge.parsing.limits import ParseLimits
from reef.ledger.sweep import sweep
from reef.records.tables import jobs
from workers.engines.parser import ParserEngine
from workers.leases import LeaseKeeper

LEASE_S = 0.5
PATIENCE_S = 60.0


class Files(NamedTuple):
    """An embedding model of which only the tokenizer is here."""

    folder: Path
    window_tokens: int = 256


@pytest.fixture
def parser(tmp_path: Path) -> Iterator[ParserEngine]:
    """The real engine of an index worker, with one child."""
    tokenizer = Tokenizer(models.WordLevel({"[UNK]": 0, "coral": 1}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    engine = ParserEngine(
        processes=1,
        limits=ParseLimits(time_s=PATIENCE_S),
        scratch_dir=tmp_path / "scratch",
        encoder=lambda progress: Files(tmp_path),
        sizes=ChunkSizes(),
    )
    engine.load(lambda share, note: None)
    yield engine
    engine.close()


class Clock:
    """Unix time that only moves when told: a machine that stands still for a moment is no lease that ran out."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


def test_a_slow_file_is_not_claimed_twice(shop: Workshop, parser: ParserEngine) -> None:
    """Its child stands still for three leases: the job stays with its worker, is done by it, and was begun once."""
    index = shop.topology.pools["index"]
    limits = msgspec.structs.replace(index.limits, lease_s=LEASE_S)
    shop.topology.pools["index"] = msgspec.structs.replace(index, limits=limits)
    shop.engines["index"] = parser
    shop.ledger.clock = clock = Clock()
    leases = LeaseKeeper(shop.ledger, "index-simulated", {"index": LEASE_S}, parser.steps)
    shop.holds = leases  # type: ignore[assignment]
    shop.add({"slow.txt": "slow coral " * 50})
    (record,) = shop.waiting(ParseJob)
    (child,) = parser._pool.pids()
    os.kill(child, signal.SIGSTOP)
    working = threading.Thread(target=shop.run, args=(record,))
    working.start()
    try:
        for _ in range(6):
            renewed(shop, record.id, clock)
            sweep(shop.ledger, lambda _job: None, lambda _pool: 0)
            assert shop.ledger.claim(record.id, "another", LEASE_S) is None
            clock.now += LEASE_S / 2
    finally:
        os.kill(child, signal.SIGCONT)
        working.join()
        leases.close()
    after = shop.ledger.get(record.id)
    assert (after.state, after.attempts) == ("done", 1)
    assert shop.states() == {"slow.txt": "embedding"}


def renewed(shop: Workshop, job_id: str, clock: Clock) -> None:
    """Wait until the job is its worker's for a whole lease from now."""
    deadline = time.monotonic() + PATIENCE_S / 2
    while lease_until(shop, job_id) < clock.now + LEASE_S:
        assert time.monotonic() < deadline, "its lease is not renewed"
        time.sleep(0.02)


def lease_until(shop: Workshop, job_id: str) -> float:
    """When the job is anybody's again; 0 before it was claimed."""
    with shop.database.read() as connection:
        query = sa.select(jobs.c.lease_until).where(jobs.c.id == job_id, jobs.c.state == "running")
        return connection.execute(query).scalar() or 0.0
