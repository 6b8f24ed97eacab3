"""Whether a second model fits beside the one that serves. Reads /proc and the cgroup; decides nothing else.

What a model needs is told from what the one that serves was measured to take: engines differ, machines differ.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

RESERVE_BYTES = 256 << 20
"""So much stays free for everybody else on this machine."""
PER_WEIGHT_BYTE = 3.0
"""Memory of an engine for each byte of its model file: OpenVINO and llama.cpp took 2.4 to 3.3 for models of a gigabyte
(docs/decisions/0013-hot-swap.md)."""
BASE_BYTES = 300_000_000
"""Of an engine of which nothing was measured: its libraries and its cache of prompts."""
KNOWN_MIN = 1.2
"""No engine takes less than the weights and a fifth."""
PROC, CGROUP = Path("/proc"), Path("/sys/fs/cgroup")


class Measured(msgspec.Struct, frozen=True):
    """An engine that is in memory: the size of its model file and what loading it took."""

    weight_bytes: int
    memory_bytes: int


def needed_bytes(weight_bytes: int, like: Measured | None) -> int:
    """What an engine with a model file of this size will take; `like` one of the same kind. 0 for no weights."""
    if not weight_bytes:
        return 0
    if like is None or not like.memory_bytes or not like.weight_bytes:
        return BASE_BYTES + int(PER_WEIGHT_BYTE * weight_bytes)
    estimate = like.memory_bytes + PER_WEIGHT_BYTE * (weight_bytes - like.weight_bytes)
    return int(max(estimate, KNOWN_MIN * weight_bytes))


def why_no_room(needed: int, available: int) -> str:
    """Empty where that much fits and the reserve stays free; else a sentence."""
    if not needed or needed + RESERVE_BYTES <= available:
        return ""
    return (
        f"it needs about {needed / 1e6:.0f} MB, {available / 1e6:.0f} MB are available, "
        f"of which {RESERVE_BYTES / 1e6:.0f} MB stay free"
    )


def available_bytes(proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """What this process may still take: of the machine, and of every cgroup it is in."""
    fields = dict(line.split(":", 1) for line in (proc / "meminfo").read_text(encoding="ascii").splitlines())
    available = int(fields["MemAvailable"].split()[0]) * 1024
    return min([available, *_cgroup_rooms(proc, cgroup)])


def own_bytes(proc: Path = PROC) -> int:
    """Memory of this process and everything it started."""
    parents: dict[int, list[int]] = {}
    for entry in proc.iterdir():
        if entry.name.isdigit() and (parent := _parent(entry)) is not None:
            parents.setdefault(parent, []).append(int(entry.name))
    total, todo = 0, [os.getpid()]
    while todo:
        pid = todo.pop()
        total += _resident(proc / str(pid))
        todo += parents.get(pid, [])
    return total


def _cgroup_rooms(proc: Path, cgroup: Path) -> list[int]:
    """What is left in each group of version 2 or 1, from ours up to the root; groups without a limit are left out."""
    rooms = []
    try:
        lines = (proc / "self" / "cgroup").read_text(encoding="ascii").splitlines()
    except OSError:
        return []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "":
            base, limit, usage = cgroup, "memory.max", "memory.current"
        elif "memory" in controllers.split(","):
            base, limit, usage = cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes"
        else:
            continue
        # in a container the path may be the host's; its own group is then mounted at the root
        folder = base / path.lstrip("/")
        for group in (folder, *folder.parents):
            if (room := _room(group, limit, usage)) is not None:
                rooms.append(room)
            if group == base:
                break
    return rooms


def _room(group: Path, limit: str, usage: str) -> int | None:
    try:
        most = (group / limit).read_text(encoding="ascii").strip()
        if not most.isdigit():
            return None  # "max"
        used = int((group / usage).read_text(encoding="ascii"))
        stat = dict(line.split() for line in (group / "memory.stat").read_text(encoding="ascii").splitlines())
    except (OSError, ValueError):
        return None
    files = int(stat.get("inactive_file", stat.get("total_inactive_file", 0)))  # given back when it is asked for
    return max(0, int(most) - used + files)


def _parent(entry: Path) -> int | None:
    try:
        return int((entry / "stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _resident(entry: Path) -> int:
    try:
        return int((entry / "statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return 0
