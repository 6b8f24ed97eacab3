"""Who is told what: the channels of every watched run, session and upload, and the listeners that follow them.

Redis announces, the stream remembers, the ledger knows: an announcement that was missed is read from the stream, and
a run that is silent is asked about in the ledger once a second, all of them in one query. How Redis is heard is its
subscription's (app/subscription.py); writes nothing to Redis.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from typing import Literal

import msgspec
import redis
import sqlalchemy.exc

from app.endings import ending, gone
from app.follower import Follower
from app.items import Item, item
from app.listener import Listener
from app.subscription import Subscription
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
        self.listeners: dict[Listener, Follower | None] = {}
        """With how far each is in this run, where it is one."""
        self.confirmed = False
        self.heard_at = time.monotonic()
        self.ended_ticks = 0
        self.reading: tuple[int, float | None, str] | None = None

    def followers(self) -> list[tuple[Listener, Follower]]:
        """Those who follow this run."""
        return [(listener, follower) for listener, follower in self.listeners.items() if follower is not None]


class Relay:
    """Starts its subscription and its ticker (a greenlet under gevent) with the first listener."""

    def __init__(
        self,
        subscription: Subscription,
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
        self.count_reread = count_reread
        self.system = SystemWatch(self.lock, look)
        self._client = client
        self._ledger = ledger
        self._topology, self._capacity = topology, Capacity(topology, ledger.database)
        self._subscription = subscription
        self._topics: dict[str, _Topic] = {}
        self._listeners: set[Listener] = set()
        self._running = False
        self._over = threading.Event()

    # --- clients

    def listen(self, on_wake: Callable[[], None] | None = None) -> Listener:
        """A new client. `on_wake`: as a Listener takes it."""
        listener = Listener(self, on_wake)
        with self.lock:
            start, self._running = not self._running, True
            self._listeners.add(listener)
        if start:
            self._subscription.start(self)
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

    @property
    def connected(self) -> bool:
        """Whether Redis is heard."""
        return self._subscription.connected

    def close(self) -> None:
        """End every listener, the subscription and the ticker."""
        self.closing = True
        self._over.set()
        with self.lock:
            listeners = list(self._listeners)
        for listener in listeners:
            listener.wake()
        self._subscription.close()

    def join(self, kind: Kind, name: str, listener: Listener, follower: Follower | None = None) -> bool:
        """Hear a run, session or upload (lock held; `flush` follows). True where Redis announces it to us already."""
        if listener.closed:
            return False  # its client left while a frame of it was being handled
        channel = CHANNELS[kind](name)
        topic = self._topics.get(channel)
        if topic is None:
            topic = self._topics[channel] = _Topic(kind, name)
            self._subscription.want(channel)
        topic.listeners[listener] = follower
        return topic.confirmed

    def leave(self, kind: Kind, name: str, listener: Listener) -> None:
        """Hear it no more (lock held; `flush` follows)."""
        channel = CHANNELS[kind](name)
        topic = self._topics.get(channel)
        if topic is None:
            return
        topic.listeners.pop(listener, None)
        if not topic.listeners:
            del self._topics[channel]
            self._subscription.leave(channel)

    def flush(self) -> None:
        """Tell Redis about the channels joined and left since the last time."""
        self._subscription.flush()

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

    # --- what the subscription tells (lock held)

    def channels(self) -> list[str]:
        """Every channel that somebody listens to; the connection is a new one, so none of them is confirmed."""
        for topic in self._topics.values():
            topic.confirmed = False
        return list(self._topics)

    def confirmed(self, channel: str) -> None:
        """What is published there is heard from now on; what was before is to be read."""
        topic = self._topics.get(channel)
        if topic is None:
            return
        topic.confirmed = True
        for listener, follower in topic.listeners.items():
            if topic.kind == "session":
                listener.session_confirmed(topic.name)
            elif topic.kind == "upload":
                listener.upload_confirmed(topic.name)
            elif follower is not None:
                follower.confirmed, follower.retry_at = True, 0.0
                follower.fall_behind()
                listener.wake()

    def announced(self, channel: str, body: bytes) -> None:
        """Something was published."""
        topic = self._topics.get(channel)
        if topic is not None:
            self._announce(topic, body)

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
        for listener, follower in topic.listeners.items():
            if follower is not None and follower.offer(heard):
                listener.wake()

    @staticmethod
    def _announce_upload(topic: _Topic, body: bytes) -> None:
        event = streams.heard_upload_event(body)
        heard = Item(event, encode(event).decode())
        for listener in topic.listeners:
            listener.upload_told(topic.name, heard)

    # --- once a second: did a silent run end, how long is the queue

    def _tick_loop(self) -> None:
        while not self._over.wait(TICK_S):
            try:
                self._look_up_silent()
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("silent runs are not looked up: the database does not answer (%s)", error)

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


def persona_of(record: JobRecord) -> str:
    """Who answers in this run."""
    return msgspec.json.decode(record.payload, type=_Speaker).persona_id or ""


class _Speaker(msgspec.Struct, frozen=True):
    persona_id: str | None = None
