"""The worker's way out: every event reaches the log once and in order, whatever the broker does."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
import redis
from services import RedisServer

from reef import keys, streams
from reef.contracts.events import Done, Restarted, RunEvent, Token, Usage
from reef.ledger import Claim, JobRecord
from workers.publisher import Publisher, Writer


def claim(run_id: str, token: int = 1) -> Claim:
    job = JobRecord(
        id=run_id,
        task="t",
        pool="chat",
        payload="{}",
        state="running",
        session_id="s",
        token=token,
        attempts=token,
        attempts_max=3,
        owner="w",
        stop_requested=False,
        created_at=0.0,
        started_at=0.0,
        finished_at=None,
        deadline_at=1e12,
        not_before=0.0,
        result=None,
        error=None,
    )
    return Claim(job, token, "w")


def connect(server: RedisServer) -> redis.Redis:
    return redis.Redis.from_url(server.url, socket_timeout=2, socket_connect_timeout=2)


def settle(publisher: Publisher) -> None:
    """Everything that was written has been sent."""
    assert publisher.wait_idle(20), "events are still waiting"


@pytest.fixture
def publisher(own_redis: RedisServer) -> Iterator[Publisher]:
    made = Publisher(connect(own_redis))
    yield made
    made.close(0.5)


def told(events: list[RunEvent]) -> str:
    """The reply as a client that obeys `restarted` has it at the end."""
    text = ""
    for event in events:
        if isinstance(event, Restarted):
            text = ""
        elif isinstance(event, Token):
            text += event.content
    return text


def finish(writer: Writer) -> None:
    writer.emit(Done(usage=Usage(1, 2), message_id="m"))
    writer.close()


def test_events_are_numbered_without_gaps_and_complete(own_redis: RedisServer, publisher: Publisher) -> None:
    """What eight threads write to eight runs at once is in eight logs, whole and in order."""

    def write(run: str) -> None:
        writer = publisher.open(claim(run))
        for word in range(200):
            writer.text(f"{word} ")
        finish(writer)

    threads = [threading.Thread(target=write, args=(f"run{n}",)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    settle(publisher)
    for n in range(8):
        events = streams.read(connect(own_redis), f"run{n}")
        assert told(events) == "".join(f"{word} " for word in range(200))
        assert [event.seq for event in events] == [streams.number(1, k + 1) for k in range(len(events))]
        assert isinstance(events[-1], Done)
        assert len(events) < 150, "pieces that come fast are sent together"


def test_what_is_stored_is_announced(own_redis: RedisServer, publisher: Publisher) -> None:
    """A subscriber of the run's channel gets the very events of the log."""
    with connect(own_redis).pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(keys.run_channel("live"))
        pubsub.get_message(timeout=20)
        writer = publisher.open(claim("live"))
        writer.text("hello")
        finish(writer)
        settle(publisher)
        stored = [fields[b"e"] for _, fields in connect(own_redis).xrange(keys.run_events("live"))]
        assert len(stored) == 2
        for event in stored:
            message = pubsub.get_message(timeout=20)
            assert message is not None
            assert message["data"] == event
        assert pubsub.get_message(timeout=0.1) is None


def test_a_fenced_worker_can_append_nothing(own_redis: RedisServer, publisher: Publisher) -> None:
    """Once the next claim has written, the old writer is told that it lost the run and its text goes nowhere."""
    fenced = threading.Event()
    old = publisher.open(claim("run", 1), on_fenced=fenced.set)
    old.text("old ")
    settle(publisher)
    new = publisher.open(claim("run", 2))
    new.emit(Restarted(reason="test"))
    new.text("new")
    settle(publisher)
    old.text("ghost")
    assert fenced.wait(20)
    settle(publisher)
    assert told(streams.read(connect(own_redis), "run")) == "new"


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_a_broker_restart_loses_nothing(own_redis: RedisServer, publisher: Publisher, how: signal.Signals) -> None:
    """Text written before, while and after the broker is away reads back whole."""
    writer = publisher.open(claim("run"))
    writer.text("before ")
    settle(publisher)
    own_redis.stop(how)
    writer.text("while ")
    own_redis.start()
    writer.text("after ")
    finish(writer)
    settle(publisher)
    assert told(streams.read(connect(own_redis), "run")) == "before while after "


def test_a_flushed_broker_is_told_the_reply_again(own_redis: RedisServer, publisher: Publisher) -> None:
    """After FLUSHALL the log starts over with `restarted` and the whole text, under higher numbers."""
    writer = publisher.open(claim("run"))
    for word in ("one ", "two "):
        writer.text(word)
        settle(publisher)
    seen = streams.last_seq(connect(own_redis), "run")
    connect(own_redis).flushall()
    writer.text("three ")
    settle(publisher)
    finish(writer)
    settle(publisher)
    events = streams.read(connect(own_redis), "run")
    assert told(events) == "one two three "
    assert told(streams.read(connect(own_redis), "run", seen)) == "one two three "
    assert isinstance(events[-1], Done)


def test_cut_connections_lose_and_double_nothing(own_redis: RedisServer, publisher: Publisher) -> None:
    """CLIENT KILL again and again while a reply is written: the text arrives once."""
    writer = publisher.open(claim("run"))
    killer = connect(own_redis)
    words = [f"w{n} " for n in range(60)]
    for place, word in enumerate(words):
        writer.text(word)
        if place % 10 == 5:
            killer.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
    finish(writer)
    settle(publisher)
    assert told(streams.read(connect(own_redis), "run")) == "".join(words)


def test_a_run_nobody_wrote_to_is_empty(own_redis: RedisServer) -> None:
    """Reading it is no error."""
    assert streams.read(connect(own_redis), "nobody") == []
    assert streams.last_seq(connect(own_redis), "nobody") == 0
