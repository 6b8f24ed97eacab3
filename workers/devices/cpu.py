"""What this machine's processor can do, as the kernel tells it."""

from __future__ import annotations

import os
from pathlib import Path

CPUINFO = Path("/proc/cpuinfo")


def flags() -> frozenset[str]:
    """Instruction sets and other features of the first core; empty where the kernel does not tell."""
    return frozenset(_field("flags").split())


def identity() -> str:
    """Names the kind of processor: code compiled for one must not travel to another that can do less."""
    return f"{os.uname().machine} {_field('model name')} {' '.join(sorted(flags()))}"


def _field(name: str) -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
