"""How the worker before this one ended, from what it left behind: a file of its life and the stacks of its end.

A process that is ended by the watchdog (workers/watchdog.py) or by a signal of its driver cannot report. But the
interpreter writes why into the trace file as its last act; whoever comes next reads it. A worker that was killed from
outside leaves no such words, and its device is not to blame.
"""

from __future__ import annotations

import faulthandler
import os
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import msgspec

WORDS_BYTES_MAX = 256 * 1024
_HUNG = re.compile(rb"^Timeout \((?P<what>[0-9:.]+)\)!", re.MULTILINE)
_CRASHED = re.compile(rb"^Fatal Python error: (?P<what>.+)$", re.MULTILINE)


class Life(msgspec.Struct, frozen=True):
    """A worker that has its device open."""

    pid: int
    opened_at: float
    trace_bytes: int
    """So long was the trace file then: what follows is about this life."""


class End(msgspec.Struct, frozen=True):
    """A life that ended by a fault of its device."""

    reason: str
    at: float
    served_s: float


def trace_file(data_dir: Path, node: str) -> Path:
    """Where the stacks of a worker are written when it is ended."""
    return data_dir / "logs" / f"{node}.hang"


class LastWords:
    """The file of one worker's life."""

    def __init__(self, data_dir: Path, node: str, clock: Callable[[], float] = time.time) -> None:
        self._file = data_dir / "run" / "devices" / f"{node}.json"
        self._trace_file = trace_file(data_dir, node)
        self._clock = clock
        self._trace: IO[str] | None = None

    def of_predecessor(self) -> End | None:
        """How the life before this one ended, if by a fault; told once."""
        try:
            life = msgspec.json.decode(self._file.read_bytes(), type=Life)
            self._file.unlink()
        except (OSError, msgspec.DecodeError):
            return None
        reason = self._reason(life)
        if not reason:
            return None
        at = self._trace_file.stat().st_mtime
        return End(reason, at, max(0.0, at - life.opened_at))

    def begin(self) -> None:
        """The device is open from now on; a signal that ends this process writes its stacks first."""
        self._trace_file.parent.mkdir(parents=True, exist_ok=True)
        self._file.parent.mkdir(parents=True, exist_ok=True)
        if self._trace is None:
            self._trace = self._trace_file.open("a", encoding="utf-8")
            faulthandler.enable(self._trace)
        life = Life(os.getpid(), self._clock(), self._trace_file.stat().st_size)
        self._file.write_bytes(msgspec.json.encode(life))

    def end(self) -> None:
        """The device is let go in good order: nothing is to be told."""
        if self._trace is None:
            return
        faulthandler.disable()
        self._trace.close()
        self._trace = None
        self._file.unlink(missing_ok=True)

    def _reason(self, life: Life) -> str:
        try:
            with self._trace_file.open("rb") as file:
                file.seek(life.trace_bytes)
                words = file.read(WORDS_BYTES_MAX)
        except OSError:
            return ""
        if hung := _HUNG.search(words):
            return (
                f"A call of the device did not come back within {hung['what'].decode()}; the worker was ended. "
                f"The stacks are in {self._trace_file}."
            )
        if crashed := _CRASHED.search(words):
            what = crashed["what"].decode(errors="replace")
            return f"The worker was ended by its device or driver ({what}). The stacks are in {self._trace_file}."
        return ""
