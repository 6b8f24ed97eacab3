"""A listener that is collected by a loop: when it wakes, what needs no reading, what does, and that nothing is lost."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from app import relay
from app.items import Item, item
from app.listener import CONTROL_MAX, Closed, Hopeless, Listener
from app.services import Services, build
from app.subscription import Command, Subscription
from reef import keys, streams
from reef.contracts.events import Done, Event, Token, Usage, encode
from reef.contracts.jobs import CompletionJob
from reef.ledger import NewJob
from reef.records.tables import jobs
from reef.settings import Settings

if TYPE_CHECKING:
    from services import RedisServer

QUEUES = "version: 1\npools:\n  chat: {queue: chat, devices: [simulated], engine: simulated, model: m, streams: 4}\n"
ANSWER = Item(None, "{}")


class Played(Subscription):
    """What Redis says is said by the test."""

    def __init__(self) -> None:
        super().__init__()
        self.commands: list[Command] = []

    def _start(self) -> None:
        self.connected = True

    def flush(self) -> None:
        """Note what is to be sent."""
        with self._hearer.lock:
            self.commands += self._due()

    def close(self) -> None:
        """Nothing is open."""

    def confirm(self, channel: str) -> None:
        """It is announced from now on."""
        self._hear([[b"subscribe", channel.encode(), 1]])

    def say(self, *events: Event) -> None:
        """They were published, and come in one piece."""
        self._hear([[b"message", keys.run_channel(event.run_id).encode(), encode(event)] for event in events])

    def reconnect(self) -> list[Command]:
        """A new connection: what is sent over it."""
        with self._hearer.lock:
            return self._anew()


@pytest.fixture
def hearing() -> Played:
    return Played()


@pytest.fixture
def reef(tmp_path: Path, migrated_file: Path, shared_redis: RedisServer, hearing: Played) -> Iterator[Services]:
    """The parts of a process that hears what the test says."""
    (tmp_path / "queues.yaml").write_text(QUEUES)
    shutil.copyfile(migrated_file, tmp_path / "reef.db")
    settings = Settings(data_dir=tmp_path, redis_url=shared_redis.url, queues_file=tmp_path / "queues.yaml")
    parts = build(settings, subscription=hearing)
    yield parts
    parts.close()
    parts.redis.close()
    parts.database.dispose()


@pytest.fixture
def woken() -> list[str]:
    """Grows with each call of on_wake."""
    return []


@pytest.fixture
def listener(reef: Services, woken: list[str]) -> Listener:
    return reef.relay.listen(lambda: woken.append("woken"))


@pytest.fixture
def run_id(reef: Services) -> str:
    """A run that a worker has taken."""
    new = NewJob(job=CompletionJob(messages=[], tokens_max=4), deadline_s=600.0, attempts_max=3)
    with reef.database.write() as connection:
        made = reef.ledger.submit(connection, new, waiting_max=9, streams=1).id
    assert reef.ledger.claim(made, "chat-simulated", 600.0) is not None
    return made


def token(run_id: str, n: int) -> Token:
    return Token(run_id=run_id, seq=streams.number(1, n), content=f"{n} ")


def numbers(told: list[Item] | None) -> list[int]:
    assert told is not None, "something has to be read first"
    return [one.event.seq % streams.NUMBERS_PER_CLAIM for one in told if one.event is not None]


def caught_up(listener: Listener, hearing: Played, run_id: str) -> None:
    """Follow a run of which nothing was said yet."""
    listener.follow(run_id)
    hearing.confirm(keys.run_channel(run_id))
    assert listener.collect(may_read=False) is None
    assert listener.collect(may_read=True) == []


def test_it_wakes_once_until_it_is_collected(listener: Listener, woken: list[str]) -> None:
    """Whatever happens meanwhile, the loop is told once that there is something to collect."""
    for _ in range(3):
        listener.tell(ANSWER)
    assert woken == ["woken"]
    assert listener.collect(may_read=False) == [ANSWER] * 3
    listener.tell(ANSWER)
    assert woken == ["woken"] * 2


def test_what_is_announced_needs_no_reading(reef: Services, listener: Listener, hearing: Played, run_id: str) -> None:
    """Events of a run that was caught up with come as they were said, in their order, without Redis or database."""
    caught_up(listener, hearing, run_id)
    reef.redis.connection_pool.disconnect()
    reef.redis.connection_pool.connection_kwargs["port"] = 1  # whoever asks it from now on fails
    said = [token(run_id, n) for n in range(1, 4)]
    hearing.say(*said)
    assert listener.collect(may_read=False) == [item(event) for event in said]
    assert listener.collect(may_read=False) == []


def test_a_run_of_its_own_is_not_found_before_it_is_answered(
    reef: Services, listener: Listener, hearing: Played, run_id: str
) -> None:
    """A watch that is heard of late looks for runs when the client's own message is just being taken: that one is told
    by who takes it, once. Another one that runs is found afterwards."""
    with reef.database.write() as connection:
        connection.execute(jobs.update().where(jobs.c.id == run_id).values(session_id="late"))
        new = NewJob(job=CompletionJob(messages=[], tokens_max=4), deadline_s=600.0, attempts_max=3, session_id="late")
        other = reef.ledger.submit(connection, new, waiting_max=9, streams=1).id
    listener.watch("late")
    with listener.saying():
        hearing.confirm(keys.session_channel("late"))
        assert listener.collect(may_read=False) == []
        assert listener.collect(may_read=True) == []
        assert not listener.followers
        listener.follow(run_id, streams.number(0, 1))
    assert listener.collect(may_read=False) is None, "runs of the session have to be looked for"
    listener.collect(may_read=True)
    assert listener.followers.keys() == {run_id, other}
    assert listener.followers[run_id].seq == streams.number(0, 1)


def test_a_gap_is_read_and_nothing_is_told_twice(
    reef: Services, listener: Listener, hearing: Played, run_id: str
) -> None:
    """A number was skipped: what came before it is told, then the stream is to be read, then all is as before."""
    caught_up(listener, hearing, run_id)
    streams.append(reef.redis, [token(run_id, n) for n in range(1, 5)])
    hearing.say(token(run_id, 1), token(run_id, 3))
    assert numbers(listener.collect(may_read=False)) == [1]
    hearing.say(token(run_id, 4))
    assert listener.collect(may_read=False) is None
    assert numbers(listener.collect(may_read=True)) == [2, 3, 4]
    hearing.say(token(run_id, 5))
    assert numbers(listener.collect(may_read=False)) == [5]


def test_a_new_connection_makes_every_follower_read(
    reef: Services, listener: Listener, hearing: Played, run_id: str, woken: list[str]
) -> None:
    """All channels are asked for in one command; once confirmed, what was said meanwhile is read from the stream."""
    caught_up(listener, hearing, run_id)
    listener.watch("s")
    channels = {keys.run_channel(run_id), keys.session_channel("s")}
    ping, subscribe = hearing.reconnect()
    assert (ping, subscribe[0], set(subscribe[1:])) == (("PING",), "SUBSCRIBE", channels)
    streams.append(reef.redis, [token(run_id, 1)])
    listener.collect(may_read=True)
    woken.clear()
    hearing.confirm(keys.run_channel(run_id))
    assert woken == ["woken"]
    assert listener.collect(may_read=False) is None
    assert numbers(listener.collect(may_read=True)) == [1]


def test_a_channel_left_and_wanted_again_waits_for_the_last_word(
    listener: Listener, hearing: Played, run_id: str
) -> None:
    """The first confirmation is that of a subscription that was given up since."""
    channel = keys.session_channel("s")
    listener.watch("s")
    other = listener._relay.listen()
    listener.close()
    other.watch("s")
    assert hearing.commands == [("SUBSCRIBE", channel), ("UNSUBSCRIBE", channel), ("SUBSCRIBE", channel)]
    hearing.confirm(channel)
    assert other.collect(may_read=False) == []
    hearing.confirm(channel)
    assert other.collect(may_read=False) is None, "what began before is to be looked up"


def test_an_end_leaves_no_channel_behind(listener: Listener, hearing: Played, run_id: str) -> None:
    """A run that was told to its end is followed no more."""
    caught_up(listener, hearing, run_id)
    hearing.say(Done(run_id=run_id, seq=streams.number(1, 1), usage=Usage(0, 0), message_id="m"))
    assert numbers(listener.collect(may_read=False)) == [1]
    assert hearing.commands[-1] == ("UNSUBSCRIBE", keys.run_channel(run_id))
    assert listener.followers == {}


def test_a_client_beyond_help_and_a_process_that_ends(reef: Services, listener: Listener, woken: list[str]) -> None:
    """Both are said when it is collected; of the first even who did not collect is told, once."""
    for _ in range(CONTROL_MAX + 5):
        listener.tell(ANSWER)
    assert woken == ["woken"] * 2
    with pytest.raises(Hopeless):
        listener.collect(may_read=False)
    reef.relay.close()
    with pytest.raises(Closed):
        reef.relay.listen().collect(may_read=False)


def test_nothing_is_looked_up_after_the_end(reef: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who closes the database next may rely on it: the ticker does not sleep its second to the end."""
    monkeypatch.setattr(relay, "TICK_S", 3600.0)
    before = set(threading.enumerate())
    reef.relay.listen()
    (ticker,) = set(threading.enumerate()) - before
    reef.relay.close()
    ticker.join(20)
    assert not ticker.is_alive()
