"""The stand-in for libedgetpu.so.1 (edgetpu_double.c), compiled where a test asks for it."""

from __future__ import annotations

import subprocess
from pathlib import Path

import msgspec

SOURCE = Path(__file__).with_suffix(".c")


def compile_double(folder: Path) -> Path:
    """Make the library."""
    library = folder / "libedgetpu_double.so"
    flags = ["-shared", "-fPIC", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    subprocess.run(["gcc", *flags, "-o", library, SOURCE], check=True)
    return library


class Told(msgspec.Struct, frozen=True):
    """A line of the double's log."""

    pid: int
    what: str
    about: str


class Double:
    """The compiled double, and devices that are there."""

    def __init__(self, library: Path, folder: Path, devices: str) -> None:
        self.library, self._log = library, folder / "edgetpu.log"
        locks = folder / "edgetpu-locks"
        locks.mkdir(parents=True)
        self.environment = {
            "EDGETPU_DOUBLE_DEVICES": devices,
            "EDGETPU_DOUBLE_LOG": str(self._log),
            "EDGETPU_DOUBLE_LOCKS": str(locks),
        }

    def told(self, *what: str) -> list[Told]:
        """What happened of these kinds so far, in order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        found = [Told(int(pid), kind, about) for pid, kind, about in (line.split(" ", 2) for line in lines)]
        return [one for one in found if one.what in what]
