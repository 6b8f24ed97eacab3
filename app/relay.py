"""The one Redis reader of this process: it hears every watched run and session and hands events to the listeners.

Redis announces, the stream remembers, the ledger knows: an announcement that was missed is read from the stream, and
a run that is silent is asked about in the ledger once a second, all of them in one query. Writes nothing to Redis.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Literal

import msgspec
import redis
import sqlalchemy.exc

from app.endings import ending, gone
from app.items import Item, item
from app.listener import Follower, Listener
from app.system_watch import SystemWatch
from app.waiting import why_waiting
from reef import keys, streams
from reef.contracts.events import (
    Event,
    Queued,
    RunEvent,
    UploadEvent,
    UploadProgress,
    decode,
    decode_announced,
    encode,
)
from reef.knowledge.progress import measure
from reef.ledger import JobRecord, Ledger
from reef.observing.board import Board
from reef.placement.serving import Capacity
from reef.topology import Topology

log = logging.getLogger(__name__)

TICK_S = 1.0
SILENT_S = 1.0
"""A watched run that says nothing this long is looked up in the ledger."""
READ_TIMEOUT_S = 6.0
"""A PING goes out every TICK_S: a connection that answers nothing this long is dead."""
BACKOFF_S = (0.05, 0.1, 0.25, 0.5, 1.0)
SUBSCRIBE_MAX = 500
"""Channels named in one command."""


Kind = Literal["run", "session", "upload", "system"]
CHANNELS: dict[Kind, Callable[[str], str]] = {
    "run": keys.run_channel,
    "session": keys.session_channel,
    "upload": keys.upload_channel,
    "system": lambda _name: keys.SYSTEM_CHANNEL,
}
RereadReason = Literal["gap", "slow", "ledger"]
"""A number was skipped, a client was overtaken, or only the ledger knew of the end."""


class _Topic:
    """A channel and who listens to it."""

    def __init__(self, kind: Kind, name: str) -> None:
        self.kind, self.name = kind, name
        self.listeners: set[Listener] = set()
        self.confirmed = False
        self.heard_at = time.monotonic()
        self.ended_ticks = 0
        self.reading: tuple[int, float | None, str] | None = None

    def followers(self) -> Iterator[tuple[Listener, Follower]]:
        """Those who follow this run."""
        for listener in self.listeners:
            follower = listener.followers.get(self.name)
            if follower is not None:
                yield listener, follower


class Relay:
    """Starts its threads (greenlets under gevent) with the first listener."""

    def __init__(
        self,
        redis_url: str,
        client: redis.Redis,
        ledger: Ledger,
        topology: Topology,
        count_reread: Callable[[RereadReason], None],
        look: Callable[[], Board],
    ) -> None:
        """`count_reread` is called when announcements alone did not serve a client; `look` says how all stands."""
        self.lock = threading.Lock()
        """Guards topics and followers; never held during a query or a write."""
        self.closing = False
        self.connected = False
        self.count_reread = count_reread
        self.system = SystemWatch(self.lock, look)
        self._client = client
        self._ledger = ledger
        self._topology, self._capacity = topology, Capacity(topology, ledger.database)
        self._connections = redis.ConnectionPool.from_url(
            redis_url, socket_timeout=READ_TIMEOUT_S, socket_connect_timeout=1.0, protocol=2, health_check_interval=0
        )
        self._connection: Any = None
        self._write = threading.Lock()
        self._pending: list[tuple[str, str]] = []
        self._awaiting: Counter[str] = Counter()
        self._topics: dict[str, _Topic] = {}
        self._listeners: set[Listener] = set()
        self._running = False

    # --- clients

    def listen(self) -> Listener:
        """A new client."""
        listener = Listener(self)
        with self.lock:
            start, self._running = not self._running, True
            self._listeners.add(listener)
        if start:
            threading.Thread(target=self._read_loop, name="relay-reader", daemon=True).start()
            threading.Thread(target=self._tick_loop, name="relay-ticker", daemon=True).start()
        return listener

    def forget(self, listener: Listener) -> None:
        """A client is gone."""
        with self.lock:
            self._listeners.discard(listener)

    @property
    def listening(self) -> int:
        """Clients now."""
        return len(self._listeners)

    def close(self) -> None:
        """End every listener and the threads."""
        self.closing = True
        with self.lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()
        connection = self._connection
        if connection is not None:
            _hang_up(connection)

    def join(self, kind: Kind, name: str, listener: Listener) -> bool:
        """Hear a run, session or upload (lock held; `flush` follows). True where Redis announces it to us already."""
        channel = CHANNELS[kind](name)
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic(kind, name)
            self._pending.append(("SUBSCRIBE", channel))
        topic.listeners.add(listener)
        return topic.confirmed

    def leave(self, kind: Kind, name: str, listener: Listener) -> None:
        """Hear it no more (lock held; `flush` follows)."""
        channel = CHANNELS[kind](name)
        topic = self._topics.get(channel)
        if topic is None:
            return
        topic.listeners.discard(listener)
        if not topic.listeners:
            del self._topics[channel]
            self._pending.append(("UNSUBSCRIBE", channel))

    def flush(self) -> None:
        """Tell Redis about the channels joined and left since the last time."""
        if not self._pending:
            return
        with self._write:
            with self.lock:
                pending, self._pending = self._pending, []
                connection = self._connection
                if connection is None:
                    return  # once connected again, the reader subscribes to every topic there is
                self._awaiting.update(channel for command, channel in pending if command == "SUBSCRIBE")
            try:
                for command, channel in pending:
                    connection.send_command(command, channel, check_health=False)
            except (redis.RedisError, OSError):
                _hang_up(connection)

    # --- what listeners ask for

    def read(self, run_id: str, after_seq: int) -> list[RunEvent]:
        """Stored events. Raises redis.RedisError."""
        return streams.read(self._client, run_id, after_seq)

    def read_upload(self, upload_id: str, after_seq: int) -> list[UploadEvent]:
        """Stored events of an upload. Raises redis.RedisError."""
        return streams.read_upload(self._client, upload_id, after_seq)

    def measure_upload(self, upload_id: str) -> UploadProgress | None:
        """How far an upload is, None where there is none. Raises sqlalchemy.exc.SQLAlchemyError."""
        with self._ledger.database.read() as connection:
            return measure(connection, upload_id, time.time())

    def record(self, run_id: str) -> JobRecord | None:
        """The run as the ledger has it, None where it cannot be had."""
        try:
            return self._ledger.get_many([run_id]).get(run_id)
        except sqlalchemy.exc.SQLAlchemyError:
            return None

    def ending(self, record: JobRecord, chars_heard: int | None) -> list[Event]:
        """The end of a run as the database tells it."""
        return ending(self._ledger.database, record, chars_heard)

    def active_runs(self, session_id: str) -> list[JobRecord]:
        """Runs of a session that have not ended."""
        try:
            return self._ledger.active(session_id)
        except sqlalchemy.exc.SQLAlchemyError:
            log.warning("the database does not answer: runs that began before a watch are not told")
            return []

    # --- the reader

    def _read_loop(self) -> None:
        failures = 0
        while not self.closing:
            connection: Any = self._connections.make_connection()
            try:
                connection.connect()
                self._resubscribe(connection)
                failures = 0
                while not self.closing:
                    self._handle(connection.read_response())
            except (redis.RedisError, OSError) as error:
                if not self.closing and failures == 0:
                    log.warning("live events pause: the broker does not answer (%s)", error)
            finally:
                self.connected = False
                with self.lock:
                    self._connection = None
                connection.disconnect()
            time.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    def _resubscribe(self, connection: Any) -> None:
        with self._write:
            with self.lock:
                self._pending.clear()
                for topic in self._topics.values():
                    topic.confirmed = False
                channels = list(self._topics)
                self._awaiting = Counter(channels)
                self._connection = connection
            connection.send_command("PING", check_health=False)
            for start in range(0, len(channels), SUBSCRIBE_MAX):
                connection.send_command("SUBSCRIBE", *channels[start : start + SUBSCRIBE_MAX], check_health=False)
        self.connected = True

    def _handle(self, reply: Any) -> None:
        if not isinstance(reply, list) or len(reply) < 3:
            return
        kind, channel = reply[0], reply[1].decode()
        with self.lock:
            if kind == b"subscribe":
                self._confirm(channel)
            elif kind == b"message" and (topic := self._topics.get(channel)) is not None:
                self._announce(topic, reply[2])

    def _confirm(self, channel: str) -> None:
        self._awaiting[channel] -= 1
        if self._awaiting[channel] > 0:
            return  # it was left and joined again meanwhile: the last confirmation counts
        del self._awaiting[channel]
        topic = self._topics.get(channel)
        if topic is None:
            return
        topic.confirmed = True
        for listener in topic.listeners:
            if topic.kind == "session":
                listener.session_confirmed(topic.name)
            elif topic.kind == "upload":
                listener.upload_confirmed(topic.name)
        for listener, follower in topic.followers():
            follower.confirmed, follower.retry_at = True, 0.0
            follower.fall_behind()
            listener.wake()

    def _announce(self, topic: _Topic, body: bytes) -> None:
        if topic.kind == "session":
            run_id = body.decode()
            for listener in topic.listeners:
                listener.run_started(run_id)
            return
        try:
            if topic.kind == "upload":
                self._announce_upload(topic, body)
                return
            if topic.kind == "system":
                self.system.heard(item(decode_announced(body)))
                return
            event = decode(body)
        except (msgspec.DecodeError, ValueError):
            log.warning("%s %s announced something that is no event of this version", topic.kind, topic.name)
            return
        topic.heard_at, topic.ended_ticks = time.monotonic(), 0
        heard = Item(event, body.decode())
        for listener, follower in topic.followers():
            if follower.offer(heard):
                listener.wake()

    @staticmethod
    def _announce_upload(topic: _Topic, body: bytes) -> None:
        event = streams.heard_upload_event(body)
        heard = Item(event, encode(event).decode())
        for listener in topic.listeners:
            listener.upload_told(topic.name, heard)

    # --- once a second: is the connection alive, did a silent run end, how long is the queue

    def _tick_loop(self) -> None:
        while not self.closing:
            time.sleep(TICK_S)
            self._ping()
            try:
                self._look_up_silent()
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("silent runs are not looked up: the database does not answer (%s)", error)

    def _ping(self) -> None:
        with self._write:
            connection = self._connection
            if connection is None:
                return
            try:
                connection.send_command("PING", check_health=False)
            except (redis.RedisError, OSError):
                _hang_up(connection)

    def _look_up_silent(self) -> None:
        since = time.monotonic() - SILENT_S
        with self.lock:
            silent = {topic.name: topic for topic in self._topics.values() if topic.kind == "run"}
            silent = {name: topic for name, topic in silent.items() if topic.heard_at < since}
        if not silent:
            return
        records = self._ledger.get_many(silent)
        queued: dict[str, list[JobRecord]] = {}
        for run_id, topic in silent.items():
            record = records.get(run_id)
            if record is None or record.ended:
                self._ended(topic, record)
            elif record.state == "queued":
                queued.setdefault(record.pool, []).append(record)
        for pool, waiting in queued.items():
            self._tell_positions(pool, waiting, silent)

    def _ended(self, topic: _Topic, record: JobRecord | None) -> None:
        """First look into the stream once more; if its end is not there a second later, the database tells it."""
        with self.lock:
            topic.ended_ticks += 1
            for listener, follower in topic.followers():
                follower.fall_behind()
                if topic.ended_ticks > 1:
                    follower.ended = record or gone(topic.name)
                listener.wake()

    def _tell_positions(self, pool: str, waiting: list[JobRecord], topics: dict[str, _Topic]) -> None:
        positions = self._ledger.positions(pool)
        load = self._ledger.load(pool)
        places = self._capacity.streams(self._topology.pool(pool))
        note = why_waiting(self._client, pool)
        for record in waiting:
            position = positions.get(record.id)
            if position is None:
                continue
            topic = topics[record.id]
            reading = (position, load.wait_s(position, places), note)
            if reading == topic.reading:
                continue
            topic.reading = reading
            event = Queued(
                run_id=record.id,
                session_id=record.session_id or "",
                position=position,
                wait_s=reading[1],
                persona_id=persona_of(record),
                note=note,
            )
            with self.lock:
                for listener, follower in topic.followers():
                    follower.reading, follower.reading_token = item(event), record.token
                    listener.wake()


def _hang_up(connection: Any) -> None:
    """Make the reader notice and start anew; only the reader itself may close a connection that it reads."""
    sock = connection._sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def persona_of(record: JobRecord) -> str:
    """Who answers in this run."""
    return msgspec.json.decode(record.payload, type=_Speaker).persona_id or ""


class _Speaker(msgspec.Struct, frozen=True):
    persona_id: str | None = None
