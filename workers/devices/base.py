"""What all kinds of devices share: how a kind answers, what is found, how a fault is told, and careful file reads.

No kind is named here; workers/devices/registry.py knows them all. Nothing in this package opens a device but `open`.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Protocol

import msgspec

from reef.contracts.nodes import DeviceHealth
from reef.ports import EngineError

FILE_BYTES_MAX = 4096
"""No attribute of /sys or /proc that is read here is longer."""

HEALTHY_AFTER_S = 300.0
"""A device that served this long starts its count of faults anew."""


class DeviceFault(EngineError):
    """The device itself failed, not a model or a request: it counts towards its quarantine. A sentence for a person."""


class Found(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A device this machine has, told from files alone."""

    kind: str
    name: str
    """As queues.yaml may name it; a name that is remembered for a device (reef.records `devices`) goes before this."""
    title: str
    identity: str = ""
    path: str = ""
    health: DeviceHealth = DeviceHealth()
    problem: str = ""
    """Why it could not be used now; empty where nothing is known to stand in the way."""


class Opened(msgspec.Struct, frozen=True):
    """A device that has been opened once, by a process that is gone again."""

    name: str
    """What the engine must ask its driver for: not the name in queues.yaml where the driver's order changed."""
    identity: str = ""


class Kind(Protocol):
    """One device, as its kind knows it. Made from a config; see workers/devices/registry.py."""

    quarantines: bool
    """Whether repeated faults keep this device out of use for a while: not where nothing else could do its work."""

    def identity(self) -> str:
        """What the hardware says it is; empty where it says nothing."""

    def health(self) -> DeviceHealth:
        """How it feels now. Bounded in time; raises nothing."""

    def open(self, remembered: str, taken: Collection[str]) -> Opened:
        """Open it once, in bounded time, and let it go. Raises DeviceFault.

        `remembered`: the identity its name stands for; `taken`: identities that other names stand for.
        """

    def confirm(self, opened: Opened) -> None:
        """Look whether this process holds the device that was meant. Raises DeviceFault."""


def read(path: Path) -> str:
    """The stripped text of a small file; empty where it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(FILE_BYTES_MAX).decode(errors="replace").strip()
    except OSError:
        return ""


def read_number(path: Path) -> int | None:
    """The whole number in a small file; None where there is none."""
    text = read(path)
    return int(text) if text.lstrip("-").isdigit() else None


def names_in(directory: Path) -> list[str]:
    """What is in a directory, in the order in which the kernel lists it; empty where it cannot be read."""
    try:
        return os.listdir(directory)
    except OSError:
        return []


def files_of(pid: int) -> frozenset[str]:
    """Paths that a process has open; empty where this user may not know."""
    directory = Path(f"/proc/{pid}/fd")
    return frozenset(_targets(directory))


def holder(path: str) -> int | None:
    """A process that has this file open, as far as this user may know. Looks at every process: not for a loop."""
    for name in names_in(Path("/proc")):
        if name.isdigit() and path in files_of(int(name)):
            return int(name)
    return None


def process_name(pid: int) -> str:
    """A process for people: number and name."""
    name = read(Path(f"/proc/{pid}/comm"))
    return f"process {pid} ({name})" if name else f"process {pid}"


def is_worker(pid: int) -> bool:
    """Whether a process is a worker of a reef: its device is in the right hands."""
    return "workers.main" in read(Path(f"/proc/{pid}/cmdline"))


def _targets(directory: Path) -> Iterator[str]:
    for name in names_in(directory):
        try:
            yield os.readlink(directory / name)
        except OSError:
            continue
