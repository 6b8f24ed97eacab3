"""One client's view of what it follows: what it was told, what it missed, what comes next. No sockets, no HTTP.

Who may wait calls `next`. Who may not (a loop that serves thousands) is woken, calls `collect`, and where that would
have to read stream or records, calls it again in a thread: what is announced live needs no reading.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import redis

from app.follower import Follower, Gap
from app.items import Item, item
from app.mending import mended
from app.upload_follower import UploadFollower
from reef import streams
from reef.ledger import JobRecord

if TYPE_CHECKING:
    from app.relay import Relay

CONTROL_MAX = 256
"""Answers to a client's own frames that wait to be sent; a client that lets more pile up is beyond help."""
FOLLOWED_MAX = 256
WATCHED_MAX = 16
UPLOADS_MAX = 16
RETRY_READ_S = 0.5


class Closed(Exception):
    """The process is shutting down: the client should come again."""


class Hopeless(Exception):
    """The client does not take what it asked for."""


class TooMany(Exception):
    """The client watches as many runs or sessions as one client may."""


class Listener:
    """What one client (a socket, an SSE stream, a waiting request) is to be told. One reader: whoever calls `next`, or
    `collect`. Ten thousand of them are held at once, so what is seldom used is made when it is."""

    __slots__ = (
        "_control",
        "_event",
        "_finished",
        "_lock",
        "_look_at",
        "_on_wake",
        "_relay",
        "_saying",
        "_started",
        "_woken",
        "closed",
        "followers",
        "overflowed",
        "sessions",
        "uploads",
        "watches_system",
    )

    def __init__(self, relay: Relay, on_wake: Callable[[], None] | None = None) -> None:
        """`on_wake` is called from any thread when there may be something to collect, and not again before it was; but
        once more when the client is beyond help. The relay's lock may be held then.
        """
        self._relay = relay
        self._lock = relay.lock
        self._on_wake = on_wake
        self._woken = False
        self._saying = False
        self._event: threading.Event | None = None
        self._control: list[Item] = []
        self._started: list[str] = []
        self._look_at: list[str] = []
        self._finished: list[str] = []
        self.overflowed = False
        """Its client does not take what it asked for."""
        self.closed = False
        self.followers: dict[str, Follower] = {}
        self.sessions: dict[str, None] = {}
        self.uploads: dict[str, UploadFollower] = {}
        self.watches_system = False

    # --- what the client asks for

    def follow(
        self,
        run_id: str,
        after_seq: int = 0,
        *,
        whole: bool = False,
        ended: JobRecord | None = None,
        again: bool = True,
    ) -> None:
        """Tell this run's events after that number. `again` False: leave a run alone that is followed already.

        `whole`: the text in one piece at the end. Raises TooMany.
        """
        with self._lock:
            known = self.followers.get(run_id)
            if known is not None and not again:
                return
            if known is None:
                self.check_room()
            follower = Follower(run_id, after_seq, whole=whole, ended=ended)
            self.followers[run_id] = follower
            follower.confirmed = self._relay.join("run", run_id, self, follower)
        self._relay.flush()
        self.wake()

    @contextmanager
    def saying(self) -> Iterator[None]:
        """While a message of this client is being taken: the run that begins is told by who takes it, from its answer
        on. Found meanwhile among the session's runs, it would be told from its beginning, too."""
        self._saying = True
        try:
            yield
        finally:
            self._saying = False
            if self._look_at:
                self.wake()

    def check_room(self) -> None:
        """Raises TooMany where no further run can be followed."""
        if len(self.followers) >= FOLLOWED_MAX:
            raise TooMany(f"One connection can follow {FOLLOWED_MAX} runs at once; open another one.")

    def watch(self, session_id: str) -> None:
        """Follow every run that is active or starts in this session. Raises TooMany."""
        with self._lock:
            if session_id in self.sessions:
                return
            if len(self.sessions) >= WATCHED_MAX:
                raise TooMany(f"One connection can watch {WATCHED_MAX} sessions at once; open another one.")
            self.sessions[session_id] = None
            if self._relay.join("session", session_id, self):
                self._look_at.append(session_id)
        self._relay.flush()
        self.wake()

    def subscribe(self, upload_id: str, after_seq: int = 0) -> None:
        """Tell how this upload is now and what happens in it from then on. Raises TooMany."""
        with self._lock:
            if upload_id not in self.uploads and len(self.uploads) >= UPLOADS_MAX:
                raise TooMany(f"One connection can follow {UPLOADS_MAX} uploads at once; open another one.")
            follower = self.uploads[upload_id] = UploadFollower(upload_id, after_seq)
            follower.confirmed = self._relay.join("upload", upload_id, self)
        self._relay.flush()
        self.wake()

    def unsubscribe(self, upload_id: str) -> None:
        """Tell nothing more of this upload."""
        with self._lock:
            if self.uploads.pop(upload_id, None) is not None:
                self._relay.leave("upload", upload_id, self)
        self._relay.flush()

    def watch_system(self) -> None:
        """Tell how the reef stands and what changes in it; asked again: everything anew."""
        with self._lock:
            self.watches_system = True
            self._relay.system.join(self)
            self._relay.join("system", "", self)
        self._relay.flush()
        self.wake()

    def unwatch_system(self) -> None:
        """Tell nothing more of it."""
        with self._lock:
            self._unwatch_system()
        self._relay.flush()

    def _unwatch_system(self) -> None:
        if self.watches_system:
            self.watches_system = False
            self._relay.system.leave(self)
            self._relay.leave("system", "", self)

    def tell(self, answer: Item) -> None:
        """Answer one of the client's own frames; it comes before any event."""
        if len(self._control) < CONTROL_MAX:
            self._control.append(answer)
        elif not self.overflowed:
            self.overflowed, self._woken = True, False  # told anew: who waits for a slow client must hear of this
        self.wake()

    def close(self) -> None:
        """The client is gone."""
        with self._lock:
            self.closed = True
            for run_id in list(self.followers):
                self._drop(run_id)
            for session_id in self.sessions:
                self._relay.leave("session", session_id, self)
            self.sessions.clear()
            for upload_id in self.uploads:
                self._relay.leave("upload", upload_id, self)
            self.uploads.clear()
            self._unwatch_system()
        self._relay.flush()
        self._relay.forget(self)
        self.wake()

    # --- called by the relay, which holds the lock

    def run_started(self, run_id: str) -> None:
        """A run began in a session that this client watches."""
        if run_id not in self._finished:
            _keep(self._started, run_id)
            self.wake()

    def session_confirmed(self, session_id: str) -> None:
        """Announcements of this session are heard from now on: what began before is to be looked up."""
        self._look_at.append(session_id)
        self.wake()

    def upload_confirmed(self, upload_id: str) -> None:
        """Announcements of this upload are heard from now on: what was before is to be looked up."""
        follower = self.uploads.get(upload_id)
        if follower is not None:
            follower.confirmed = True
            follower.fall_behind()
            self.wake()

    def upload_told(self, upload_id: str, heard: Item) -> None:
        """Something happened in an upload that this client follows."""
        follower = self.uploads.get(upload_id)
        if follower is not None:
            follower.offer(heard)
            self.wake()

    def wake(self) -> None:
        """There may be something to tell."""
        if not self._woken:
            self._woken = True
            if self._on_wake is not None:
                self._on_wake()

    # --- what the client is told

    def next(self, timeout_s: float) -> list[Item]:
        """What to tell next, in order; empty when there was nothing for that long. Raises Closed and Hopeless."""
        deadline = time.monotonic() + timeout_s
        event = self._event
        if event is None:
            event = self._event = threading.Event()
            self._on_wake = event.set
        while True:
            event.clear()
            items = self.collect(may_read=True)
            left_s = min(deadline, self.retry_at()) - time.monotonic()
            if items or time.monotonic() >= deadline:
                return items or []
            event.wait(max(left_s, 0.0))

    def collect(self, *, may_read: bool) -> list[Item] | None:
        """What to tell now, in order; it waits for nothing. Raises Closed and Hopeless.

        None: stream or records have to be read first. Then call it with `may_read`, where waiting holds up nobody.
        """
        self._woken = False
        if self.overflowed:
            raise Hopeless
        if self.closed or self._relay.closing:
            raise Closed
        if not may_read and self._must_read():
            return None
        self._follow_started(may_read=may_read)
        items = self._control[:]
        del self._control[: len(items)]  # another thread may have added one meanwhile
        for follower in list(self.followers.values()):
            items += self._advance(follower, may_read=may_read)
            if follower.done:
                with self._lock:
                    _keep(self._finished, follower.run_id)
                    self._drop(follower.run_id, follower)
                self._relay.flush()
        for upload in list(self.uploads.values()):
            items += upload.collect(self._relay, may_read=may_read)
        if self.watches_system:
            items += self._relay.system.collect(self)
        return items

    def retry_at(self) -> float:
        """When to collect again although nobody woke us: what could not be read is then tried again."""
        waiting = [one.retry_at for one in list(self.followers.values()) if one.behind and one.retry_at]
        waiting += [one.retry_at for one in list(self.uploads.values()) if one.behind and one.retry_at]
        return min(waiting, default=float("inf"))

    def _must_read(self) -> bool:
        now = time.monotonic()
        for follower in self.followers.values():
            if follower.must_read(now):
                return True
        for upload in self.uploads.values():
            if upload.must_read(now):
                return True
        return bool(self._look_at) and not self._saying

    def _follow_started(self, *, may_read: bool) -> None:
        while may_read and self._look_at and not self._saying:
            self._find_runs(self._look_at.pop())
        while self._started:
            run_id = self._started.pop(0)
            try:
                self.follow(run_id, again=False)
            except TooMany:
                return  # its owner can still follow it by name

    def _find_runs(self, session_id: str) -> None:
        found = self._relay.active_runs(session_id)
        if self._saying:  # it began meanwhile, and its run may be among these
            self._look_at.append(session_id)
            return
        for job in found:
            _keep(self._started, job.id)

    def _advance(self, follower: Follower, *, may_read: bool) -> list[Item]:
        told: list[Item] = []
        if may_read and follower.may_replay(time.monotonic()):
            told += self._replay(follower)
        while follower.live and not follower.behind:
            told += self._take_live(follower, may_read=may_read)
        if may_read:
            told = mended(self._relay, follower, told)
        if follower.reading is not None:
            with self._lock:
                reading, follower.reading = follower.reading, None
            if streams.token_of(follower.seq) <= follower.reading_token and not follower.done:
                told.append(reading)
        return told

    def _take_live(self, follower: Follower, *, may_read: bool) -> list[Item]:
        with self._lock:
            live, follower.live = follower.live, []
        told: list[Item] = []
        try:
            for heard in live:
                told += follower.take(heard, stored=False)
        except Gap:
            self._relay.count_reread("gap")
            follower.fall_behind()
            follower.retry_at = 0.0
            if may_read:
                told += self._replay(follower)
            else:
                self.wake()
        return told

    def _replay(self, follower: Follower) -> list[Item]:
        if follower.overtaken:
            follower.overtaken = False
            self._relay.count_reread("slow")
        follower.behind, follower.retry_at = False, 0.0  # events announced from now on wait in `live`
        try:
            stored = self._relay.read(follower.run_id, follower.seq)
        except (redis.RedisError, OSError):
            follower.fall_behind()
            follower.retry_at = time.monotonic() + RETRY_READ_S
            return []
        told: list[Item] = []
        for event in stored:
            told += follower.take(item(event), stored=True)
        if len(stored) >= streams.REPLAY_MAX and not follower.done:
            follower.fall_behind()
            self.wake()
        return told

    def _drop(self, run_id: str, follower: Follower | None = None) -> None:
        if follower is not None and self.followers.get(run_id) is not follower:
            return
        if self.followers.pop(run_id, None) is not None:
            self._relay.leave("run", run_id, self)


def _keep(names: list[str], name: str) -> None:
    """Note a run's id; the oldest is forgotten where there are too many."""
    names.append(name)
    del names[:-FOLLOWED_MAX]
