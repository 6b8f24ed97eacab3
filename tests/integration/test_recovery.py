"""What the supervisor tells when a worker dies: before the next one is there, and even if none ever speaks."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from services import RedisServer
from whole_product import SIMULATED_QUEUES

from reef import streams
from reef.contracts.events import Error, Restarted, Stopped, Token
from reef.contracts.jobs import CompletionJob
from reef.conversation.ends import announce_death, announce_end
from reef.ledger import Claim, Ledger, NewJob
from reef.records.database import Database
from reef.settings import Settings
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
        self.redis = redis.Redis.from_url(broker.url, socket_timeout=3)

    def close(self) -> None:
        self.redis.close()
        self.database.dispose()

    def begin(self, attempts_max: int = 3) -> Claim:
        """A run that a worker has taken."""
        new = NewJob(job=CompletionJob(messages=[], tokens_max=8), attempts_max=attempts_max, deadline_s=60.0)
        with self.database.write() as connection:
            record = self.ledger.submit(connection, new, waiting_max=8, streams=1)
        return self.claim(record.id)

    def claim(self, run_id: str) -> Claim:
        claim = self.ledger.claim(run_id, NODE, 5.0)
        assert claim is not None
        return claim

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
