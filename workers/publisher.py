"""Sending a worker's events to Redis: one thread and one pipeline for all its streams.

A reply's text waits at most FLUSH_S before it is sent, and everything that came meanwhile goes along: at full load
the number of round trips depends on time, not on tokens. A broker that is away costs nothing but delay: events wait
here, bounded by the length of the replies, and a log that the broker lost is told again from its beginning.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import msgspec
import redis

from reef import streams
from reef.contracts.events import Event, Restarted, Token
from reef.ledger.model import Claim

log = logging.getLogger(__name__)

FLUSH_S = 0.025
"""Longest wait of a piece of text that is not the first."""
COMPANY_S = 0.003
"""Such a piece waits at least this long: the streams of a batch speak in the same moment."""
RETRY_S = 0.2
KEEP_UNSENT_S = 60.0
"""A finished run whose events the broker never took is forgotten after this; the database has its reply."""


class Publisher:
    """Owns the worker's connection for events."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._urgent = threading.Event()
        self._dirty: dict[str, Writer] = {}
        self._stopping = False
        self._idle = threading.Event()
        self._idle.set()
        self._thread = threading.Thread(target=self._loop, name="publisher", daemon=True)
        self._thread.start()

    def open(self, claim: Claim, on_fenced: Callable[[], None] = lambda: None) -> Writer:
        """A writer for one attempt of a run; `on_fenced` is called when another claim has taken it over."""
        return Writer(self, claim, on_fenced)

    def touch(self, writer: Writer, *, urgent: bool = False) -> None:
        """Note that a writer has something to send; `urgent` does not wait for company."""
        with self._lock:
            self._dirty[writer.key] = writer
            self._idle.clear()
        if urgent:
            self._urgent.set()
        self._wake.set()

    def wait_idle(self, timeout_s: float) -> bool:
        """Wait until everything written so far was sent. False where that did not happen in time."""
        return self._idle.wait(timeout_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Send what is pending, for at most that long."""
        self.wait_idle(timeout_s)
        self._stopping = True
        self._urgent.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _loop(self) -> None:
        flushed_at = 0.0
        while not self._stopping:
            self._wake.wait()
            self._urgent.wait(max(COMPANY_S, FLUSH_S - (time.monotonic() - flushed_at)))
            flushed_at = time.monotonic()
            self._wake.clear()
            self._urgent.clear()
            with self._lock:
                writers = list(self._dirty.values())
                self._dirty.clear()
            try:
                self._flush(writers)
            except (redis.RedisError, OSError) as error:
                log.warning("events wait: the broker does not answer (%s)", error)
                self._keep(writers)
                time.sleep(RETRY_S)
                continue
            with self._lock:
                if not self._dirty:
                    self._idle.set()

    def _keep(self, writers: list[Writer]) -> None:
        now = time.monotonic()
        for writer in writers:
            if writer.closed_at is None or now - writer.closed_at < KEEP_UNSENT_S:
                self.touch(writer)

    def _flush(self, writers: list[Writer]) -> None:
        pipeline = self._client.pipeline(transaction=False)
        sent: list[tuple[Writer, list[Event]]] = []
        for writer in writers:
            events = writer.take()
            if not events:
                continue
            for event in events:
                streams.queue_append(pipeline, event)
            streams.queue_length(pipeline, writer.run_id)
            sent.append((writer, events))
        if not sent:
            return
        try:
            replies = pipeline.execute(raise_on_error=False)
        except (redis.RedisError, OSError):
            for writer, events in sent:
                writer.put_back(events)
            raise
        for writer, events in sent:
            mine, replies = replies[: 3 * len(events) + 1], replies[3 * len(events) + 1 :]
            self._settle(writer, events, mine)

    def _settle(self, writer: Writer, events: list[Event], replies: list[object]) -> None:
        appended = replies[:-1:3]
        refused = [reply for reply in appended if isinstance(reply, Exception)]
        if any("equal or smaller" not in str(reply) for reply in refused):
            writer.put_back(events)  # loading, out of memory, a read-only replica: it may pass
            raise redis.ResponseError(str(refused[0]))
        if refused and streams.token_of(streams.last_seq(self._client, writer.run_id)) > writer.token:
            log.warning("run %s belongs to another worker now", writer.run_id)
            writer.fence()
            return
        # otherwise a refusal means that the first try did arrive before its connection broke
        length = replies[-1]
        if isinstance(length, int) and not writer.matches(length, len(events)):
            writer.retell("the broker lost the beginning of this reply")


class Writer:
    """Writes one attempt's events (reef.ports.RunWriter)."""

    def __init__(self, publisher: Publisher, claim: Claim, on_fenced: Callable[[], None]) -> None:
        self._publisher = publisher
        self._on_fenced = on_fenced
        self._lock = threading.Lock()
        self._pending: list[Event] = []
        self._unsent_text: list[str] = []
        self._told: list[str] = []
        self._n = 0
        self._fenced = False
        self.run_id = claim.job.id
        self.session_id = claim.job.session_id or ""
        self.token = claim.token
        self.key = f"{self.run_id}:{claim.token}"
        self._length: int | None = None
        self.closed_at: float | None = None

    def text(self, piece: str) -> None:
        """Add text to the reply."""
        with self._lock:
            first = not self._told and not self._unsent_text
            self._unsent_text.append(piece)
        self._publisher.touch(self, urgent=first)

    def emit(self, event: Event) -> None:
        """Add an event after the text so far."""
        with self._lock:
            self._number_text()
            self._number(event)
        self._publisher.touch(self, urgent=True)

    def close(self) -> None:
        """Nothing follows."""
        self.closed_at = time.monotonic()

    def take(self) -> list[Event]:
        """What is to be sent now, numbered."""
        with self._lock:
            self._number_text()
            events, self._pending = self._pending, []
            return [] if self._fenced else events

    def put_back(self, events: list[Event]) -> None:
        """These were not sent: they come first next time."""
        with self._lock:
            self._pending = events + self._pending

    def matches(self, length: int, added: int) -> bool:
        """Whether a log of this length can hold all that was in it before these events were added."""
        before, self._length = self._length, length
        return before is None or length >= min(before + added, streams.LOG_KEPT_MIN)

    def retell(self, reason: str) -> None:
        """Tell the reply again from its beginning, under new numbers."""
        with self._lock:
            self._length = None
            later, self._pending = self._pending, []
            self._number(Restarted(reason=reason))
            if self._told:
                self._number(Token(content="".join(self._told)))
            for event in later:
                if not isinstance(event, Token):
                    self._number(event)
        self._publisher.touch(self)

    def fence(self) -> None:
        """Another claim owns the run: drop everything."""
        self._fenced = True
        self._on_fenced()

    def _number_text(self) -> None:
        if self._unsent_text:
            piece = "".join(self._unsent_text)
            self._unsent_text.clear()
            self._told.append(piece)
            self._number(Token(content=piece))

    def _number(self, event: Event) -> None:
        self._n += 1
        seq = streams.number(self.token, self._n)
        self._pending.append(msgspec.structs.replace(event, seq=seq, run_id=self.run_id, session_id=self.session_id))
