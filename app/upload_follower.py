"""How far one client is in one upload: first how the upload stands in the records, then what happens in it.

Bounded whatever the client does: one that does not keep up is told how the upload stands once more.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import msgspec
import redis
import sqlalchemy.exc

from app.items import Item, item
from reef.contracts.events import DocumentChanged

if TYPE_CHECKING:
    from app.relay import Relay

LIVE_MAX = 1_000
"""Announced events that wait for one client."""
RETRY_READ_S = 0.5


class UploadFollower:
    """One upload as one client is told of it. The relay's lock guards what `offer` and `fall_behind` change."""

    def __init__(self, upload_id: str, after_seq: int) -> None:
        """`after_seq`: the last event this client saw, 0 for none."""
        self.upload_id, self.seq = upload_id, after_seq
        self.live: list[Item] = []
        self.confirmed = False
        """Whether Redis announces this upload's events to us."""
        self.behind = True
        self.retry_at = 0.0

    def offer(self, heard: Item) -> None:
        """Take an announced event."""
        if self.behind:
            return
        if len(self.live) >= LIVE_MAX:
            self.fall_behind()
        else:
            self.live.append(heard)

    def fall_behind(self) -> None:
        """Forget what waits; records and stream will tell it."""
        self.live.clear()
        self.behind = True

    def must_read(self, now: float) -> bool:
        """Whether records and stream have to be read before anything more can be told."""
        return self.confirmed and self.behind and now >= self.retry_at

    def collect(self, relay: Relay, *, may_read: bool) -> list[Item]:
        """What to tell now; `may_read`: what the records say included."""
        told: list[Item] = []
        if may_read and self.must_read(time.monotonic()):
            told += self._catch_up(relay)
        while self.live and not self.behind:
            with relay.lock:
                live, self.live = self.live, []
            for heard in live:
                told += self._take(heard)
        return told

    def _take(self, heard: Item) -> list[Item]:
        event = heard.event
        if event is None or event.seq <= self.seq:
            return []
        self.seq = event.seq
        return [heard]

    def _catch_up(self, relay: Relay) -> list[Item]:
        self.behind, self.retry_at = False, 0.0  # events announced from now on wait in `live`
        try:
            # who saw nothing yet asks for the documents when it has this; who did gets what it missed
            missed = relay.read_upload(self.upload_id, self.seq) if self.seq else []
            counts = relay.measure_upload(self.upload_id)
        except (redis.RedisError, OSError, sqlalchemy.exc.SQLAlchemyError):
            self.fall_behind()
            self.retry_at = time.monotonic() + RETRY_READ_S
            return []
        told = [one for event in missed for one in self._take(item(event)) if isinstance(event, DocumentChanged)]
        if counts is not None:
            told.append(item(msgspec.structs.replace(counts, snapshot=True)))
        return told
