"""What a supervised process is to its supervisor: how to run it, how it stands, how it ended."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import msgspec

State = Literal["starting", "running", "waiting", "stopping", "stopped"]


class ProcessFailed(RuntimeError):
    """A process did not become ready; the message has its exit status and the end of its log."""


class ExitReport(msgspec.Struct, frozen=True):
    """How a process ended."""

    name: str
    pid: int
    returncode: int
    expected: bool
    """It was asked to stop and ended by itself."""


@dataclass(frozen=True)
class ProcessSpec:
    """What to run and how to treat it."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    """The whole environment of the process."""
    directory: Path
    probe: Callable[[], bool] | None = None
    """Says whether the process serves; called in the thread that waits for it."""
    on_exit: Callable[[ExitReport], None] | None = None
    """Called in a thread of its own after each exit that was not orderly, before the restart."""
    stop_phase: int = 0
    """All processes of a phase are asked to stop, in the order they were started; the next phase begins when
    they have gone."""
    stop_grace_s: float = 10.0


class ProcessState(msgspec.Struct, frozen=True):
    """What is known of a process now."""

    name: str
    state: State
    pid: int
    start_ticks: int
    started_at: float
    restarts: int
    last_exit: str
