"""One client's view of the runs it watches: what it was told, what it missed, what comes next. No sockets, no HTTP.

A client that keeps up gets events as they are announced. One that does not, or that missed something, is brought up
to date from the run's stream, from the last number it was given. So its memory here is bounded whatever it does.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import TYPE_CHECKING

import msgspec
import redis

from app.items import Item, item
from app.upload_follower import UploadFollower
from reef import streams
from reef.contracts.events import FINAL, Done, Event, Restarted, Stopped, Token
from reef.ledger import JobRecord

if TYPE_CHECKING:
    from app.relay import Relay

LIVE_MAX = 512
"""Announced events of one run that wait for one client; one more, and it is told to read the stream instead."""
CONTROL_MAX = 256
"""Answers to a client's own frames that wait to be sent; a client that lets more pile up is beyond help."""
FOLLOWED_MAX = 256
WATCHED_MAX = 16
UPLOADS_MAX = 16
SYSTEM_NUMBERS = 900_000
"""Numbers from here on are last words of the system (reef.conversation.ends), not part of a worker's count."""
RETRY_READ_S = 0.5


class Closed(Exception):
    """The process is shutting down: the client should come again."""


class Hopeless(Exception):
    """The client does not take what it asked for."""


class TooMany(Exception):
    """The client watches as many runs or sessions as one client may."""


def follows(last: int, seq: int) -> bool:
    """Whether nothing can be missing between these two numbers of a run."""
    token, n = divmod(seq, streams.NUMBERS_PER_CLAIM)
    if n >= SYSTEM_NUMBERS:
        return True
    last_token, last_n = divmod(last, streams.NUMBERS_PER_CLAIM)
    return n == last_n + 1 if token == last_token else n == 1


class Gap(Exception):
    """Events between the last one and this one were not heard."""


class Follower:
    """How far one client is in one run."""

    def __init__(self, run_id: str, after_seq: int, *, whole: bool, ended: JobRecord | None) -> None:
        self.run_id = run_id
        self.seq = after_seq
        self.ended = ended
        """Set when the ledger says that the run is over: if the stream has no end, the database tells it."""
        self.live: deque[Item] = deque()
        self.confirmed = False
        """Whether Redis announces this run's events to us: only then is a read of the stream complete."""
        self.behind = True
        self.overtaken = False
        self.retry_at = 0.0
        self.reading: Item | None = None
        self.reading_token = 0
        """The reading is true until a claim with a higher number speaks."""
        self.done = False
        self.torn = False
        """Text is missing and cannot be had: nothing is told until the text begins again or the run ends."""
        self.chars: int | None = 0 if streams.token_of(after_seq) == 0 else None
        """Length of the text this client has, None where we cannot know."""
        self.whole: list[str] | None = [] if whole else None

    def offer(self, announced: Item) -> bool:
        """Take an announced event. True where the client has something to do."""
        if self.behind or self.done:
            return False
        if len(self.live) >= LIVE_MAX:
            self.overtaken = True
            self.fall_behind()
        else:
            self.live.append(announced)
        return True

    def fall_behind(self) -> None:
        """Forget what waits; the stream will tell it."""
        self.live.clear()
        self.behind = True

    def take(self, heard: Item, *, stored: bool) -> list[Item]:
        """The items to tell for this event. Raises Gap where the stream may have what is missing."""
        event = heard.event
        if event is None or event.seq <= self.seq or self.done:
            return []
        if not follows(self.seq, event.seq):
            if not stored:
                raise Gap
            self.torn = True
        self.seq = event.seq
        if isinstance(event, Restarted):
            self.torn, self.chars = False, 0
            if self.whole is not None:
                self.whole.clear()
        elif isinstance(event, Token):
            return self._token(event, heard)
        elif isinstance(event, FINAL):
            return self._final(event, heard)
        return [heard]

    def _token(self, event: Token, heard: Item) -> list[Item]:
        if self.torn:
            return []
        if self.chars is not None:
            self.chars += len(event.content)
        if self.whole is not None:
            self.whole.append(event.content)
            return []
        return [heard]

    def _final(self, event: Event, heard: Item) -> list[Item]:
        self.done = True
        if self.whole:
            text = Token(content="".join(self.whole), run_id=event.run_id, session_id=event.session_id, seq=event.seq)
            return [item(text), heard]
        return [heard]


class Listener:
    """What one client (a socket, an SSE stream, a waiting request) is to be told. One reader: whoever calls `next`."""

    def __init__(self, relay: Relay) -> None:
        self._relay = relay
        self._lock = relay.lock
        self._wake = threading.Event()
        self._control: deque[Item] = deque()
        self._started: deque[str] = deque(maxlen=FOLLOWED_MAX)
        self._look_at: set[str] = set()
        self._finished: deque[str] = deque(maxlen=FOLLOWED_MAX)
        self._overflow = False
        self.closed = False
        self.followers: dict[str, Follower] = {}
        self.sessions: set[str] = set()
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
            follower.confirmed = self._relay.join("run", run_id, self)
        self._relay.flush()
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
            self.sessions.add(session_id)
            if self._relay.join("session", session_id, self):
                self._look_at.add(session_id)
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
        if len(self._control) >= CONTROL_MAX:
            self._overflow = True
        else:
            self._control.append(answer)
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
            self._started.append(run_id)
            self.wake()

    def session_confirmed(self, session_id: str) -> None:
        """Announcements of this session are heard from now on: what began before is to be looked up."""
        self._look_at.add(session_id)
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
        self._wake.set()

    # --- what the client is told

    def next(self, timeout_s: float) -> list[Item]:
        """What to tell next, in order; empty when there was nothing for that long. Raises Closed and Hopeless."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._wake.clear()
            if self._overflow:
                raise Hopeless
            if self.closed or self._relay.closing:
                raise Closed
            items = self._collect()
            left_s = min(deadline, self._next_retry()) - time.monotonic()
            if items or time.monotonic() >= deadline:
                return items
            self._wake.wait(max(left_s, 0.0))

    def _next_retry(self) -> float:
        waiting = [f.retry_at for f in list(self.followers.values()) if f.behind and f.retry_at]
        waiting += [f.retry_at for f in list(self.uploads.values()) if f.behind and f.retry_at]
        return min(waiting, default=float("inf"))

    def _collect(self) -> list[Item]:
        self._follow_started()
        items = []
        while self._control:
            items.append(self._control.popleft())
        for follower in list(self.followers.values()):
            if follower.confirmed or follower.ended is not None:
                items += self._advance(follower)
            current = streams.token_of(follower.seq) <= follower.reading_token
            if follower.reading is not None and current and not follower.done:
                items.append(follower.reading)
            follower.reading = None
            if follower.done:
                with self._lock:
                    self._finished.append(follower.run_id)
                    self._drop(follower.run_id, follower)
                self._relay.flush()
        for upload in list(self.uploads.values()):
            items += upload.collect(self._relay)
        if self.watches_system:
            items += self._relay.system.collect(self)
        return items

    def _follow_started(self) -> None:
        while self._look_at:
            session_id = self._look_at.pop()
            self._started.extend(job.id for job in self._relay.active_runs(session_id))
        while self._started:
            run_id = self._started.popleft()
            try:
                self.follow(run_id, again=False)
            except TooMany:
                return  # its owner can still follow it by name

    def _advance(self, follower: Follower) -> list[Item]:
        told: list[Item] = []
        if follower.behind and time.monotonic() >= follower.retry_at:
            told += self._replay(follower)
        while follower.live and not follower.behind:
            try:
                told += follower.take(follower.live.popleft(), stored=False)
            except Gap:
                self._relay.count_reread("gap")
                follower.fall_behind()
                follower.retry_at = 0.0
                told += self._replay(follower)
        if follower.done and follower.torn:
            told = self._mend(follower, told)
        elif follower.ended is not None and not follower.done and not self._more_stored(follower):
            told += self._ending(follower, follower.ended)
        return told

    def _more_stored(self, follower: Follower) -> bool:
        # a stream that cannot be read does not keep us from telling an end that the database knows
        return follower.behind and not follower.retry_at

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

    def _mend(self, follower: Follower, told: list[Item]) -> list[Item]:
        """The run ended and text is missing: tell the stored text instead."""
        final = told[-1].event
        if not isinstance(final, Done | Stopped):
            return told
        record = self._relay.record(follower.run_id)
        if record is None or not record.ended:
            return told
        kept = [heard for heard in told[:-1] if follower.whole is None or not isinstance(heard.event, Token)]
        return kept + self._ending(follower, record)

    def _ending(self, follower: Follower, record: JobRecord) -> list[Item]:
        self._relay.count_reread("ledger")
        events = self._relay.ending(record, None if follower.torn else follower.chars)
        follower.done = True
        if follower.whole is not None:
            events = [event for event in events if not isinstance(event, Restarted)]
            if follower.whole and not any(isinstance(event, Token) for event in events):
                text = Token(content="".join(follower.whole), run_id=record.id, session_id=record.session_id or "")
                events.insert(0, msgspec.structs.replace(text, seq=events[-1].seq - 1))
        return [item(event) for event in events]

    def _drop(self, run_id: str, follower: Follower | None = None) -> None:
        if follower is not None and self.followers.get(run_id) is not follower:
            return
        if self.followers.pop(run_id, None) is not None:
            self._relay.leave("run", run_id, self)
