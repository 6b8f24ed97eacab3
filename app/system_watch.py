"""The reef as it is told live: one look a second for all who watch, and none while nobody does.

Each client is told a whole board first, then what changed. One that does not keep up gets another whole board, so that
its memory here is bounded whatever it does.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

import redis
import sqlalchemy.exc

from app.items import Item, item
from reef.contracts.events import SystemView
from reef.observing.board import Board, Watchman, changes, whole

if TYPE_CHECKING:
    from app.listener import Listener

log = logging.getLogger(__name__)

LOOK_EVERY_S = 1.0
LIVE_MAX = 30
"""Events that wait for one client; one more, and it is told everything anew instead."""


class SystemFollower:
    """How far one client is. The lock of its relay guards it."""

    def __init__(self) -> None:
        self.live: deque[Item] = deque()
        self.behind = True

    def offer(self, told: Item) -> None:
        """Take what happened."""
        if self.behind:
            return
        if len(self.live) >= LIVE_MAX:
            self.fall_behind()
        else:
            self.live.append(told)

    def fall_behind(self) -> None:
        """Forget what waits; a whole board will tell it."""
        self.live.clear()
        self.behind = True


class SystemWatch:
    """Looks while it has watchers. One per relay."""

    def __init__(self, lock: threading.Lock, look: Callable[[], Board]) -> None:
        """`lock` is the relay's: it guards watchers and their followers, and is never held during a look."""
        self._lock, self._look = lock, look
        self._watchers: dict[Listener, SystemFollower] = {}
        self._looking = False
        self._board: Board | None = None
        self._whole: Item | None = None
        self._watchman = Watchman()

    def join(self, listener: Listener) -> None:
        """Tell this client from now on; once more for one that is told already: everything anew (lock held)."""
        if listener.closed:
            return
        self._watchers[listener] = SystemFollower()
        if not self._looking:
            self._looking = True
            self._board = self._whole = None
            self._watchman = Watchman()
            threading.Thread(target=self._loop, name="system-watch", daemon=True).start()

    def leave(self, listener: Listener) -> None:
        """Tell it nothing more (lock held)."""
        self._watchers.pop(listener, None)

    def heard(self, told: Item) -> None:
        """Somebody announced an event on the system's channel (lock held)."""
        for listener, follower in self._watchers.items():
            follower.offer(told)
            listener.wake()

    def collect(self, listener: Listener) -> list[Item]:
        """What to tell this client now."""
        with self._lock:
            follower = self._watchers.get(listener)
            if follower is None:
                return []
            if follower.behind:
                if self._board is None:
                    return []
                if self._whole is None:
                    self._whole = item(whole(self._board))
                follower.behind = False
                return [self._whole]
            told = list(follower.live)
            follower.live.clear()
            return told

    def _loop(self) -> None:
        while True:
            began = time.monotonic()
            self._tell(self._next())
            with self._lock:
                if not self._watchers:
                    self._looking = False
                    return
            time.sleep(max(0.0, LOOK_EVERY_S - (time.monotonic() - began)))

    def _next(self) -> tuple[Board | None, list[Item]]:
        """The newest board, and what made it out of the one before. Without a board: why there is none."""
        before = self._board
        try:
            now = self._look()
        except (redis.RedisError, OSError):
            return None, [_trouble("The broker does not answer; this is what was known before.")]
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("the reef cannot be looked at: %s", str(error).splitlines()[0])
            return None, [_trouble("The database does not answer; this is what was known before.")]
        if before is None:
            return now, []
        return now, [item(changes(before, now)), *map(item, self._watchman.notices(before, now))]

    def _tell(self, step: tuple[Board | None, list[Item]]) -> None:
        now, told = step
        with self._lock:
            if now is not None:
                self._board, self._whole = now, None
            for listener, follower in self._watchers.items():
                for one in told:
                    # who knows nothing yet must at least hear why
                    if now is None and follower.behind:
                        listener.tell(one)
                    else:
                        follower.offer(one)
                listener.wake()


def _trouble(words: str) -> Item:
    return item(SystemView(at=time.time(), trouble=words))
