"""Ends this process when a call of the device hangs. A Python thread cannot: a native call may hold the interpreter.

faulthandler's timer lives in C and fires even then: it writes the stack of every thread to the trace file and exits.
There is one such timer in a process; the guards of all calls share it and it is set to the earliest of their ends.
"""

from __future__ import annotations

import faulthandler
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

LATE_SHARE = 0.2
"""A call is ended at most this share of its time late: setting the timer costs a thread, so it is not set each time."""


class _Timer:
    """The process's one timer and the guards that share it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._ends: dict[int, tuple[float, float, IO[str]]] = {}
        self._tickets = 0
        self._set_to: float | None = None

    def enter(self, timeout_s: float, trace: IO[str]) -> int:
        with self._lock:
            self._tickets += 1
            self._ends[self._tickets] = (time.monotonic() + timeout_s, timeout_s * LATE_SHARE, trace)
            self._arm()
            return self._tickets

    def renew(self, ticket: int, timeout_s: float) -> None:
        with self._lock:
            _, late_s, trace = self._ends[ticket]
            self._ends[ticket] = (time.monotonic() + timeout_s, late_s, trace)
            self._arm()

    def leave(self, ticket: int) -> None:
        with self._lock:
            del self._ends[ticket]
            self._arm()

    def _arm(self) -> None:
        if not self._ends:
            faulthandler.cancel_dump_traceback_later()
            self._set_to = None
            return
        end, late_s, trace = min(self._ends.values(), key=lambda item: item[0])
        if self._set_to is not None and end <= self._set_to <= end + late_s:
            return
        self._set_to = end + late_s
        faulthandler.dump_traceback_later(max(0.001, self._set_to - time.monotonic()), exit=True, file=trace)


_timer = _Timer()


class Watchdog:
    """Guards the calls of one device."""

    def __init__(self, timeout_s: float, trace_file: Path) -> None:
        """A call longer than this ends the process; the stacks are in `trace_file` then."""
        self.timeout_s, self.trace_file = timeout_s, trace_file
        trace_file.parent.mkdir(parents=True, exist_ok=True)
        self._trace = trace_file.open("a", encoding="utf-8")

    @contextmanager
    def guard(self) -> Iterator[Callable[[], None]]:
        """End the process if the body takes too long. For a series of calls, call what this gives after each."""
        ticket = _timer.enter(self.timeout_s, self._trace)
        try:
            yield lambda: _timer.renew(ticket, self.timeout_s)
        finally:
            _timer.leave(ticket)

    def close(self) -> None:
        """No call is guarded any more."""
        self._trace.close()


@contextmanager
def guard(timeout_s: float, trace_file: Path) -> Iterator[Callable[[], None]]:
    """Guard one call, or a series: end the process, with the stacks in `trace_file`, if it takes longer."""
    watchdog = Watchdog(timeout_s, trace_file)
    try:
        with watchdog.guard() as renew:
            yield renew
    finally:
        watchdog.close()
