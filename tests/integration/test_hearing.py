"""What a client hears of a run while the connection to Redis fails: every token once, in both kinds of process."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from certificates import Authority
from hearing import EARS, Ear
from machines import FaultProxy, TlsEnd

from reef import keys, streams
from reef.contracts.events import Event, Started, Token
from reef.contracts.jobs import CompletionJob
from reef.ledger import NewJob
from reef.settings import Settings

if TYPE_CHECKING:
    from services import RedisServer

PATIENCE_S = 20.0
KILLS = 5
PACE_S = 0.0005
"""Between two words: a run's stream keeps 10,000 events, which must be enough for what happens meanwhile."""
QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: [simulated], engine: simulated, model: test-model, streams: 4}
"""
OpenEar = Callable[..., Ear]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    """Who signs the certificate of `tls_port`."""
    return Authority(tmp_path)


@pytest.fixture
def tls_port(own_redis: RedisServer, authority: Authority) -> Iterator[int]:
    """Where the broker is reached through TLS."""
    way = TlsEnd(own_redis.port, *authority.server("127.0.0.1"))
    yield way.port
    way.close()


@pytest.fixture(params=list(EARS))
def open_ear(
    request: pytest.FixtureRequest, tmp_path: Path, migrated_file: Path, own_redis: RedisServer
) -> Iterator[OpenEar]:
    """Opens a client of the broker at this URL, in each kind of process in turn; closed before the broker is."""
    opened: list[Ear] = []
    (tmp_path / "queues.yaml").write_text(QUEUES)
    shutil.copyfile(migrated_file, tmp_path / "reef.db")

    def open_one(url: str) -> Ear:
        settings = Settings(data_dir=tmp_path, redis_url=url, queues_file=tmp_path / "queues.yaml")
        opened.append(EARS[request.param](settings))
        return opened[-1]

    yield open_one
    for one in opened:
        one.close()


def running(ear: Ear) -> str:
    """A run that a worker has taken, heard by this client."""
    ledger = ear.reef.ledger
    new = NewJob(job=CompletionJob(messages=[], tokens_max=4), deadline_s=600.0, attempts_max=3)
    with ledger.database.write() as connection:
        run_id = ledger.submit(connection, new, waiting_max=9, streams=1).id
    assert ledger.claim(run_id, "chat-simulated", 600.0) is not None
    ear.listener.follow(run_id)
    return run_id


class Writer(threading.Thread):
    """A worker that says words until it is told to end, and says again what was not taken."""

    def __init__(self, url: str, run_id: str, *, word_chars: int = 0) -> None:
        super().__init__(daemon=True)
        self._client = redis.Redis.from_url(url, socket_timeout=2)
        self._run_id, self._filling = run_id, "." * word_chars
        self.words: list[str] = []
        self.enough = threading.Event()
        self.last = 0
        """Number of its last event, once it is known."""
        self.start()

    def run(self) -> None:
        """Say it."""
        self._append(Started(run_id=self._run_id, seq=streams.number(1, 1), persona_id="p", device="d", model="m"))
        while not self.last:
            ending = self.enough.wait(PACE_S)
            self.words.append(f"w{len(self.words)}{self._filling} ")
            seq = streams.number(1, len(self.words) + 1)
            self._append(Token(run_id=self._run_id, seq=seq, content=self.words[-1]))
            self.last = seq if ending else 0
        self._client.close()

    def _append(self, event: Event) -> None:
        while True:
            try:
                streams.append(self._client, [event])
            except streams.Fenced:
                return  # it was taken, and the answer lost
            except (redis.RedisError, OSError):
                time.sleep(0.01)
            else:
                return


def check(ear: Ear, writer: Writer) -> None:
    """Its client is told everything, in order, and nothing twice."""
    events: list[Event] = []
    deadline = time.monotonic() + PATIENCE_S
    while not events or events[-1].seq != writer.last:
        assert time.monotonic() < deadline, f"told {len(events)} events, the last {events[-1:]}"
        events += [one.event for one in ear.next(0.1) if one.event is not None and one.event.seq]
    assert [event.seq for event in events] == [streams.number(1, n + 1) for n in range(len(writer.words) + 1)]
    assert [event.content for event in events if isinstance(event, Token)] == writer.words


def wait_for(done: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def subscribed(client: redis.Redis, run_id: str) -> bool:
    """Whether the broker announces it to anybody."""
    return bool(client.pubsub_numsub(keys.run_channel(run_id))[0][1])


def test_cut_connections_lose_and_double_nothing(open_ear: OpenEar, own_redis: RedisServer) -> None:
    """CLIENT KILL TYPE pubsub, again and again while a run speaks: every token, once, in order."""
    ear = open_ear(own_redis.url)
    run_id = running(ear)
    writer = Writer(own_redis.url, run_id)

    def kill() -> None:
        with redis.Redis.from_url(own_redis.url) as client:
            for _ in range(KILLS):
                wait_for(lambda: subscribed(client, run_id))
                client.client_kill_filter(_type="pubsub")
        writer.enough.set()

    killer = threading.Thread(target=kill)
    killer.start()
    check(ear, writer)
    killer.join()


def test_a_restarted_broker_loses_and_doubles_nothing(open_ear: OpenEar, own_redis: RedisServer) -> None:
    """The broker is stopped and started in the middle of a reply."""
    ear = open_ear(own_redis.url)
    writer = Writer(own_redis.url, running(ear))
    wait_for(lambda: len(writer.words) > 100)
    own_redis.stop()
    own_redis.start()
    writer.enough.set()
    check(ear, writer)


def test_a_subscriber_that_is_kicked_reads_what_it_missed(open_ear: OpenEar, own_redis: RedisServer) -> None:
    """Redis drops a subscriber that does not read (client-output-buffer-limit): the stream tells it the rest."""
    ear = open_ear(own_redis.url)
    with redis.Redis.from_url(own_redis.url) as client:
        client.config_set("client-output-buffer-limit", "pubsub 65536 0 0")
        run_id = running(ear)
        wait_for(lambda: subscribed(client, run_id))
        with ear.reef.relay.lock:  # whoever reads stands still
            writer = Writer(own_redis.url, run_id, word_chars=12_000)
            wait_for(lambda: client.info("stats")["client_output_buffer_limit_disconnections"])
        writer.enough.set()
        check(ear, writer)


def test_a_user_of_the_brokers_hears_through_tls(
    own_redis: RedisServer, tls_port: int, authority: Authority, open_ear: OpenEar
) -> None:
    """Name and password of the URL are said, with their special characters, to a server whose name was checked."""
    with redis.Redis.from_url(own_redis.url) as client:
        client.acl_setuser("web", enabled=True, passwords=["+p@ss w/d"], categories=["+@all"], keys="*", channels="*")
        client.config_set("requirepass", "nobody knows it")
        ear = open_ear(f"rediss://web:p%40ss%20w%2Fd@127.0.0.1:{tls_port}/0?ssl_ca_certs={authority.ca}")
        writer = Writer(ear.reef.settings.redis_url, running(ear))
        writer.enough.set()
        check(ear, writer)


def test_a_connection_that_fell_silent_is_made_anew(
    open_ear: OpenEar, own_redis: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A broker behind a cut link says nothing, not even that it is gone: the connection is given up all the same."""
    for module in ("app.subscription", "app.gateway.subscription"):
        monkeypatch.setattr(f"{module}.READ_TIMEOUT_S", 0.3)
        monkeypatch.setattr(f"{module}.PING_EVERY_S", 0.05)
    link = FaultProxy(own_redis.port)
    ear = open_ear(own_redis.url.replace(str(own_redis.port), str(link.port)))
    run_id = running(ear)
    with redis.Redis.from_url(own_redis.url) as client:
        wait_for(lambda: subscribed(client, run_id))
    link.swallow(True)
    writer = Writer(own_redis.url, run_id)
    wait_for(lambda: not ear.reef.relay.connected)
    link.swallow(False)
    writer.enough.set()
    check(ear, writer)
    link.close()
