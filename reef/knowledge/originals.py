"""The bytes of uploaded files: received into a file of their own, then kept under their SHA-256, once for all rows.

Which file is still needed is decided by the rows of `documents` alone. Knows no HTTP and reads no content.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import sqlalchemy as sa

from reef.records.database import Database
from reef.records.tables import documents

READ_BYTES = 1024 * 1024
LOOK_EVERY_BYTES = 16 * 1024 * 1024
"""So much is written between two looks at the free space."""
GARBAGE_AGE_S = 3600.0
"""A kept file that no row names is younger than this while its row is being written."""
INCOMING_AGE_S = 24 * 3600.0
"""A half-received file that nobody went on with for so long is given up."""
WORKPLACE_AGE_S = 3600.0
"""A directory of somebody who died in it: whoever works writes more often than this."""
GARBAGE_MAX = 1000
"""Files looked at in one round."""
_DIGEST = re.compile(r"^[0-9a-f]{64}$")

Outside = Callable[..., Any]
"""Calls a function that waits for the disk, without holding up whoever else shares this thread."""


class DiskFull(Exception):
    """There is no room for more; the message says how much is free and how much is kept free."""


class TooLarge(Exception):
    """The file is longer than it may be."""


class Busy(Exception):
    """Another request is writing this file."""


class Kept(NamedTuple):
    """A file that is in its place."""

    sha256: str
    size_bytes: int


def _here(function: Callable[..., Any], *arguments: Any) -> Any:
    return function(*arguments)


class Incoming:
    """A file that is being received. Bytes are appended; one writer at a time."""

    def __init__(self, originals: Originals, path: Path, file: BinaryIO, bytes_max: int) -> None:
        self.path, self._file, self._originals = path, file, originals
        self._bytes_max = bytes_max
        self.offset = file.seek(0, os.SEEK_END)
        self._look_at = self.offset

    def write(self, data: bytes) -> int:
        """Append. Raises TooLarge and DiskFull; what was written before stays."""
        if self.offset + len(data) > self._bytes_max:
            raise TooLarge(f"it has more than {self._bytes_max} bytes")
        if self.offset >= self._look_at:
            self._originals.check_room(len(data))
            self._look_at = self.offset + LOOK_EVERY_BYTES
        try:
            self._file.write(data)
        except OSError as error:
            raise _full(error) from error
        self.offset += len(data)
        return len(data)


class Originals:
    """Keeps original files below the data directory."""

    def __init__(self, data_dir: Path, *, reserve_bytes: int = 0, outside: Outside = _here) -> None:
        """`reserve_bytes` of the disk stay free; `outside` runs what waits for the disk."""
        self.root = data_dir / "originals"
        self._incoming = self.root / "incoming"
        self.reserve_bytes = reserve_bytes
        self._outside = outside

    # --- receiving

    @contextmanager
    def receive(self, name: str, *, bytes_max: int) -> Iterator[Incoming]:
        """Append to the file of that name, which is begun if it is not there. Raises Busy and DiskFull."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        path = self._incoming / name
        with path.open("ab", buffering=0) as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise Busy(f"{name} is being written by another request") from None
            yield Incoming(self, path, file, bytes_max)

    def received_bytes(self, name: str) -> int:
        """How much of this file is here."""
        try:
            return (self._incoming / name).stat().st_size
        except FileNotFoundError:
            return 0

    def check_room(self, more_bytes: int) -> None:
        """Raises DiskFull where so much more would eat into the reserve."""
        self.root.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(self.root).free
        if free - more_bytes < self.reserve_bytes:
            raise DiskFull(
                f"The disk has {free // 1_000_000} MB left and {self.reserve_bytes // 1_000_000} MB of it are kept "
                "free; delete something or move REEF_DATA_DIR to a larger disk."
            )

    def keep(self, name: str) -> Kept:
        """A file is complete: put it under its hash, durably. Raises DiskFull."""
        path = self._incoming / name
        try:
            kept: Kept = self._outside(self._keep, path)
        except OSError as error:
            raise _full(error) from error
        return kept

    def _keep(self, path: Path) -> Kept:
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while block := file.read(READ_BYTES):
                digest.update(block)
            size = file.tell()
            os.fsync(file.fileno())
        place = self.path(digest.hexdigest())
        place.parent.mkdir(exist_ok=True)
        if place.exists():
            os.utime(place)  # it may be garbage that is about to be collected
            path.unlink()
        if not place.exists():  # a rename lost in a power cut leaves a row without a file: parsing says so
            path.replace(place)
        return Kept(digest.hexdigest(), size)

    def discard(self, name: str) -> None:
        """Forget a file that will not be finished."""
        with suppress(FileNotFoundError):
            (self._incoming / name).unlink()

    @contextmanager
    def workplace(self) -> Iterator[Path]:
        """A directory for files that are made here before they are adopted; what is left in it goes at the end."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=self._incoming, ignore_cleanup_errors=True) as directory:
            yield Path(directory)

    def adopt(self, path: Path) -> Kept:
        """Keep a file of a workplace, which is moved. Raises OSError."""
        kept: Kept = self._outside(self._keep, path)
        return kept

    # --- kept

    def path(self, sha256: str) -> Path:
        """Where the file of that hash is. Raises ValueError for what is no hash."""
        if not _DIGEST.match(sha256):
            raise ValueError(f"{sha256!r} is no SHA-256")
        return self.root / sha256[:2] / sha256

    def collect(self, database: Database) -> int:
        """Remove what no row needs; gives how many files went. Looks at a bounded number of files."""
        if not self.root.is_dir():
            return 0
        gone = self._collect_incoming()
        old = time.time() - GARBAGE_AGE_S
        found = [path for path in self._kept_files() if path.stat().st_mtime < old]
        for start in range(0, len(found), GARBAGE_MAX):
            some = {path.name: path for path in found[start : start + GARBAGE_MAX]}
            with database.read() as connection:
                query = sa.select(documents.c.sha256).where(documents.c.sha256.in_(list(some))).distinct()
                needed = set(connection.execute(query).scalars())
            for digest, path in some.items():
                if digest not in needed:
                    path.unlink(missing_ok=True)
                    gone += 1
        return gone

    def _kept_files(self) -> Iterator[Path]:
        for directory in self.root.iterdir():
            if len(directory.name) == 2 and directory.is_dir():
                yield from directory.iterdir()

    def _collect_incoming(self) -> int:
        gone = 0
        now = time.time()
        for path in self._incoming.iterdir() if self._incoming.is_dir() else ():
            with suppress(FileNotFoundError):
                age_s = now - path.stat().st_mtime
                if path.is_dir() and age_s > WORKPLACE_AGE_S:
                    shutil.rmtree(path, ignore_errors=True)
                    gone += 1
                elif path.is_file() and age_s > INCOMING_AGE_S:
                    path.unlink()
                    gone += 1
        return gone


def _full(error: OSError) -> Exception:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull("The disk is full; delete something or move REEF_DATA_DIR to a larger disk.")
    return error
