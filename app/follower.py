"""How far one client is in one run: what is told to it, what is dropped, what counts as a gap. Does no I/O.

A client that keeps up gets events as they are announced. One that does not, or that missed something, is brought up
to date from the run's stream, from the last number it was given. So its memory here is bounded whatever it does.
"""

from __future__ import annotations

from app.items import Item, item
from reef import streams
from reef.contracts.events import FINAL, Event, Restarted, Token
from reef.ledger import JobRecord

LIVE_MAX = 512
"""Announced events of one run that wait for one client; one more, and it is told to read the stream instead."""
SYSTEM_NUMBERS = 900_000
"""Numbers from here on are last words of the system (reef.conversation.ends), not part of a worker's count."""


class Gap(Exception):
    """Events between the last one and this one were not heard."""


def follows(last: int, seq: int) -> bool:
    """Whether nothing can be missing between these two numbers of a run."""
    token, n = divmod(seq, streams.NUMBERS_PER_CLAIM)
    if n >= SYSTEM_NUMBERS:
        return True
    last_token, last_n = divmod(last, streams.NUMBERS_PER_CLAIM)
    return n == last_n + 1 if token == last_token else n == 1


class Follower:
    """One run as one client is told of it. The relay's lock guards what the relay changes; one reader takes."""

    __slots__ = (
        "behind",
        "chars",
        "confirmed",
        "done",
        "ended",
        "live",
        "overtaken",
        "reading",
        "reading_token",
        "retry_at",
        "run_id",
        "seq",
        "torn",
        "whole",
    )

    def __init__(self, run_id: str, after_seq: int, *, whole: bool, ended: JobRecord | None) -> None:
        self.run_id = run_id
        self.seq = after_seq
        self.ended = ended
        """Set when the ledger says that the run is over: if the stream has no end, the database tells it."""
        self.live: list[Item] = []
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

    def may_replay(self, now: float) -> bool:
        """Whether the stream would tell more: it is complete once Redis announces what is added to it."""
        return self.behind and (self.confirmed or self.ended is not None) and now >= self.retry_at

    def must_read(self, now: float) -> bool:
        """Whether stream or records have to be read before anything more can be told."""
        return not self.done and (self.ended is not None or self.torn or self.may_replay(now))

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
