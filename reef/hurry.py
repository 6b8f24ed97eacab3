"""Somebody waits for a first word: bulk work of the same machine stands back for a moment.

Lower priority is not enough where the cores are few: a computation beside a reply takes caches, memory bandwidth and
half of a hyper-threaded core from it, whatever its priority. So the front door marks every turn in eight shared bytes,
and bulk threads look at them before each text. Processes on other machines do not see the mark.
"""

from __future__ import annotations

import mmap
import os
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

HURRY_S = 0.1
"""Bulk work stands back so long for a turn: about the time to a first word."""
STAND_BACK_MAX_S = 0.4
"""In a row; then bulk work has as long for itself, however many turns come: it slows down, but never stops."""
LOOK_S = 0.005

_TIME = struct.Struct("<d")


class Hurry:
    """The mark of one machine. Safe to share between threads; several processes open the same file."""

    def __init__(
        self,
        data_dir: Path,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        """`clock` must be the same for all processes of the machine, as the monotonic one is."""
        self._clock, self._pause = clock, pause
        folder = data_dir / "run"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = os.open(folder / "hurry", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            os.ftruncate(file, _TIME.size)
            self._shared = mmap.mmap(file, _TIME.size)
        finally:
            os.close(file)
        self._standing_back = threading.local()

    def mark(self) -> None:
        """Somebody waits from now on."""
        _TIME.pack_into(self._shared, 0, self._clock() + HURRY_S)

    def stand_back(self) -> None:
        """Called by bulk work between two pieces: returns when nobody waits, or when it has waited its share."""
        now = began = self._clock()
        if now < getattr(self._standing_back, "not_before", 0.0):
            return
        while self._left_s(now) > 0.0 and now - began < STAND_BACK_MAX_S:
            self._pause(min(LOOK_S, self._left_s(now)))
            now = self._clock()
        if now - began >= STAND_BACK_MAX_S:
            self._standing_back.not_before = now + STAND_BACK_MAX_S

    def _left_s(self, now: float) -> float:
        left_s = float(_TIME.unpack_from(self._shared, 0)[0]) - now
        # a mark from before a restart of the machine lies far ahead: its clock began anew
        return left_s if left_s <= 2 * HURRY_S else 0.0
