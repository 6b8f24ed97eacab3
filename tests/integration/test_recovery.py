"""What the supervisor tells when a worker dies: before the next one is there, and even if none ever speaks."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from services import RedisServer
from whole_product import SIMULATED_QUEUES

from reef import streams
from reef.contracts.events import Error, Restarted, Stopped, Token
from reef.contracts.jobs import CompletionJob
from reef.conversation.ends import announce_death, announce_end
from reef.ledger import Claim, JobRecord, Ledger, NewJob
from reef.ledger.sweep import sweep
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import load_topology
from tasks.dispatch import Dispatcher
from workers.publisher import Publisher
from workers.recovery import recover_node

NODE = "chat-simulated"


class Desk:
    """A ledger, a broker, and a worker that only claims."""

    def __init__(self, directory: Path, broker: RedisServer) -> None:
        queues = directory / "queues.yaml"
        queues.write_text(SIMULATED_QUEUES)
        self.settings = Settings(data_dir=directory, redis_url=broker.url, queues_file=queues)
        self.database = Database(self.settings.sqlalchemy_url)
        self.ledger = Ledger(self.database)
        self.dispatcher = Dispatcher(self.settings.changed(node="sweeper"), load_topology(queues))
        self.redis = redis.Redis.from_url(broker.url, socket_timeout=3)

    def close(self) -> None:
        self.redis.close()
        self.dispatcher.redis.close()
        self.dispatcher.celery.close()
        self.database.dispose()

    def submit(self, attempts_max: int = 3) -> JobRecord:
        """A run that waits."""
        new = NewJob(job=CompletionJob(messages=[], tokens_max=8), attempts_max=attempts_max, deadline_s=60.0)
        with self.database.write() as connection:
            return self.ledger.submit(connection, new, waiting_max=8, streams=1)

    def begin(self, attempts_max: int = 3) -> Claim:
        """A run that a worker has taken."""
        return self.claim(self.submit(attempts_max).id)

    def claim(self, run_id: str, lease_s: float = 5.0) -> Claim:
        claim = self.ledger.claim(run_id, NODE, lease_s)
        assert claim is not None
        return claim

    def queue(self) -> list[str]:
        """Whose hints wait, in the order in which they are taken."""
        waiting: Any = self.redis.lrange("chat", 0, -1)
        return [json.loads(message)["headers"]["id"] for message in reversed(waiting)]

    def told(self, claim: Claim) -> list[type]:
        """The kinds of event in the run's log."""
        return [type(event) for event in streams.read(self.redis, claim.job.id)]


@pytest.fixture
def desk(tmp_path: Path, migrated_file: Path, own_redis: RedisServer) -> Iterator[Desk]:
    shutil.copyfile(migrated_file, tmp_path / "reef.db")
    made = Desk(tmp_path, own_redis)
    yield made
    made.close()


def test_a_death_is_told_though_the_worker_had_said_nothing(desk: Desk) -> None:
    """A worker that hangs in its first call holds the interpreter, and its words never leave it."""
    claim = desk.begin()
    recover_node(desk.settings, NODE)
    assert desk.told(claim) == [Restarted]
    assert desk.ledger.get(claim.job.id).state == "queued"


def test_the_next_worker_goes_on_after_it(desk: Desk) -> None:
    """The death is numbered before all that the next claim writes."""
    first = desk.begin()
    recover_node(desk.settings, NODE)
    publisher = Publisher(desk.redis)
    try:
        publisher.open(desk.claim(first.job.id)).text("again")
        assert publisher.wait_idle(20)
    finally:
        publisher.close()
    assert desk.told(first) == [Restarted, Token]
    announce_death(desk.redis, first.job)
    assert desk.told(first) == [Restarted, Token], "a late word of the death is not let in"


def test_an_end_follows_a_death_without_another_claim(desk: Desk) -> None:
    """Stopped in the queue after its worker died: both are told."""
    claim = desk.begin()
    recover_node(desk.settings, NODE)
    announce_end(desk.database, desk.redis, desk.ledger.stop(claim.job.id))
    assert desk.told(claim) == [Restarted, Stopped]


def test_the_last_attempt_ends_and_does_not_begin_anew(desk: Desk) -> None:
    """Nobody is told to wait for a reply that nobody will write."""
    claim = desk.begin(attempts_max=1)
    recover_node(desk.settings, NODE)
    assert desk.told(claim) == [Error]
    assert desk.ledger.get(claim.job.id).state == "dead"


def test_a_run_whose_worker_died_comes_before_those_that_never_began(desk: Desk) -> None:
    """It had its turn; behind a long queue it would have to wait for it again."""
    lost = desk.begin()
    waiting = [desk.submit() for _ in range(3)]
    for record in waiting:
        desk.dispatcher.send(record)
    recover_node(desk.settings, NODE)
    assert desk.queue() == [lost.job.id, *(record.id for record in waiting)]


def test_so_does_a_run_whose_worker_fell_silent(desk: Desk) -> None:
    """Its lease runs out, and the sweeper sends its hint again."""
    lost = desk.claim(desk.submit().id, lease_s=-1.0)
    waiting = [desk.submit() for _ in range(3)]
    for record in waiting:
        desk.dispatcher.send(record)
    swept = sweep(desk.ledger, desk.dispatcher.send_again, desk.dispatcher.pending)
    assert swept.resent == 1
    assert desk.queue() == [lost.job.id, *(record.id for record in waiting)]
