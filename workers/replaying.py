"""After a swap the new engine has no prompt cache. It reads the last conversations of this device while nobody waits.

One at a time, the newest first, and never beside a person's job: that one ends the reading, which begins again later.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable

from reef.ports import ChatResult, EngineError
from workers.rack import Mounted, Rack

log = logging.getLogger(__name__)

SESSIONS_MAX = 8
"""Conversations that are read again; the prompt cache of a small device holds about as many."""
RECENT_S = 900.0
"""One that rested longer is not expected back at once."""
WITHIN_S = 60.0
"""What was not read by then has been read by its own turn, or nobody came back."""
IDLE_WAIT_S = 0.5

Replay = Callable[[Mounted, str, threading.Event], ChatResult | None]


class Replaying:
    """Of one worker. `note` and `interrupt` may be called from any thread."""

    def __init__(self, rack: Rack, replay: Replay) -> None:
        """`replay` lets an engine read a session's prompt (reef.conversation.replay)."""
        self._rack, self._replay = rack, replay
        self._recent: OrderedDict[str, float] = OrderedDict()
        self._lock = threading.Lock()
        self._cancel = threading.Event()
        self._onto: Mounted | None = None
        self._todo: list[str] = []
        self._ends_at = 0.0
        self.read = 0
        """Conversations that were read again so far."""

    def note(self, session_id: str) -> None:
        """A turn of this session has ended here."""
        with self._lock:
            self._recent[session_id] = time.monotonic()
            self._recent.move_to_end(session_id)
            while len(self._recent) > SESSIONS_MAX:
                self._recent.popitem(last=False)
            if self._onto is not None and session_id not in self._todo:
                self._todo.append(session_id)  # it may have ended on the engine before

    def interrupt(self) -> None:
        """A person's job comes."""
        self._cancel.set()

    def begin(self, onto: Mounted) -> None:
        """An engine has just taken over: read to it what the one before knew."""
        with self._lock:
            oldest = time.monotonic() - RECENT_S
            self._todo = [session for session, at in reversed(self._recent.items()) if at >= oldest]
            self._ends_at = time.monotonic() + WITHIN_S
            idle, self._onto = self._onto is None, onto
        self._cancel.set()  # what is read to another engine is read for nothing
        if idle:
            threading.Thread(target=self._run, name="replay", daemon=True).start()

    def close(self) -> None:
        """Read nothing more."""
        with self._lock:
            self._todo, self._ends_at = [], 0.0
        self._cancel.set()

    def _run(self) -> None:
        while (next_one := self._next()) is not None:
            onto, session_id = next_one
            if not self._rack.wait_idle(IDLE_WAIT_S):
                continue
            self._cancel.clear()
            if self._rack.running():
                continue  # it came between the two lines above
            try:
                result = self._replay(onto, session_id, self._cancel)
            except EngineError as error:
                log.info("session %s is not read again: %s", session_id, error)
                result = None
            except Exception:
                log.exception("session %s could not be read again", session_id)
                result = None
            if result is None or result.finish_reason != "cancelled":
                self._done(session_id, onto)
                self.read += result is not None

    def _next(self) -> tuple[Mounted, str] | None:
        with self._lock:
            if self._todo and time.monotonic() < self._ends_at and self._onto is not None:
                return self._onto, self._todo[0]
            self._onto, self._todo = None, []
            return None

    def _done(self, session_id: str, onto: Mounted) -> None:
        with self._lock:
            if onto is self._onto and session_id in self._todo:
                self._todo.remove(session_id)
