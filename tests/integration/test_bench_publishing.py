"""What the gateway's bench publishes is what a worker publishes: numbered events of runs that are running."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import redis
from services import RedisServer

from bench.publishing import TOKEN, Publisher, start_runs
from reef import keys, streams
from reef.contracts.events import Token
from reef.ledger import Ledger
from reef.records.database import Database


@pytest.fixture
def ledger(migrated_file: Path, tmp_path: Path) -> Iterator[Ledger]:
    """An empty one."""
    shutil.copyfile(migrated_file, tmp_path / "reef.db")
    database = Database(f"sqlite:///{tmp_path / 'reef.db'}")
    yield Ledger(database)
    database.dispose()


def test_every_published_token_can_be_read_and_none_is_missing(ledger: Ledger, shared_redis: RedisServer) -> None:
    """Prepared commands are filled in by replacing bytes; stored and announced they are events like any other."""
    run_ids = start_runs(ledger, 3)
    with redis.Redis.from_url(shared_redis.url) as client, client.pubsub(ignore_subscribe_messages=True) as heard:
        heard.subscribe(keys.run_channel(run_ids[0]))
        heard.get_message(timeout=5)
        with closing(Publisher(shared_redis.url, run_ids)) as publisher:
            published = publisher.publish(rate=500, seconds=0.024)
        announced = heard.get_message(timeout=5)
        _check(client, ledger, run_ids)
        first = streams.read(client, run_ids[0])[0]
    assert published.events == 12
    assert isinstance(first, Token)
    assert announced is not None
    assert first.content.encode() in announced["data"]


def _check(client: redis.Redis, ledger: Ledger, run_ids: list[str]) -> None:
    assert [ledger.get(run_id).state for run_id in run_ids] == ["running"] * 3
    for run_id in run_ids:
        events = [event for event in streams.read(client, run_id) if isinstance(event, Token)]
        assert [event.seq for event in events] == [streams.number(TOKEN, n) for n in range(1, 5)]
        times_ns = [int(event.content.removeprefix("t=")) for event in events]
        assert times_ns == sorted(times_ns)
        assert {event.run_id for event in events} == {run_id}
