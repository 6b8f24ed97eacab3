"""An uploaded .zip or .tar.gz as single files in a scratch directory. Parses none of them.

Archives are opened once: an archive inside an archive comes out as the file it is, and is refused by the parser as any
archive is. So a bomb of nested zips costs no more than its outermost layer. Members are written under numbers, never
under their own names, which therefore cannot lead anywhere.
"""

from __future__ import annotations

import lzma
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import IO, NamedTuple

import msgspec

from reef.knowledge.parsing.decode import decode
from reef.knowledge.parsing.draft import clean
from reef.knowledge.parsing.limits import DOCUMENT_BYTES_MAX
from reef.ports import ParseFailed

MIB = 1024 * 1024
PIECE_BYTES = MIB
_ENCRYPTED, _UTF8 = 0x1, 0x800
_LITTER = {"__macosx", "thumbs.db", "desktop.ini"}
NAME_CHARACTERS_MAX = 500


class ArchiveLimits(msgspec.Struct, frozen=True, kw_only=True):
    """How much one archive may bring."""

    members_max: int = 20_000
    file_bytes_max: int = DOCUMENT_BYTES_MAX
    """Of one member; a larger one comes out as a problem, the others are not held up by it."""
    unpacked_bytes_max: int = 4096 * MIB
    unpacked_ratio_max: int = 200
    unpacked_floor_bytes: int = 10 * MIB
    """Below this much the ratio is not judged."""
    free_bytes_min: int = 0
    """So much of the disk stays free: the reserve of whoever keeps the files."""


class Member(NamedTuple):
    """One file of an archive: where it lies now, or why it was left out."""

    name: str
    path: Path | None
    problem: ParseFailed | None = None


def is_archive(name: str) -> bool:
    """Whether an upload of this name is unpacked rather than read."""
    return name.lower().endswith((".zip", ".tar.gz", ".tgz"))


def expand(path: Path, name: str, into: Path, limits: ArchiveLimits) -> Iterator[Member]:
    """Unpack one member after another into the directory `into`. Raises ParseFailed where the archive is at fault.

    Directories, links, devices and what file managers leave behind are passed over.
    """
    into.mkdir(parents=True, exist_ok=True)
    budget = _Budget(path.stat().st_size, into, limits)
    try:
        if zipfile.is_zipfile(path):
            yield from _expand_zip(path, into, budget)
        elif name.lower().endswith((".tar.gz", ".tgz")):
            yield from _expand_tar(path, into, budget)
        else:
            raise ParseFailed("corrupt", f"{name}: the archive is damaged, or no zip at all. Pack it again.")
    except (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, NotImplementedError) as error:
        raise ParseFailed("corrupt", f"{name}: the archive is damaged: {error}. Pack it again.") from None


class _Budget:
    """Counts what came out of one archive, and stops it."""

    def __init__(self, packed_bytes: int, into: Path, limits: ArchiveLimits) -> None:
        self.limits = limits
        self._packed_bytes, self._into = packed_bytes, into
        self._members = 0
        self._unpacked_bytes = 0

    def admit(self, name: str, size_bytes: int) -> ParseFailed | None:
        """Why this member is left out, None where it may come. ParseFailed where the archive itself is refused."""
        limits = self.limits
        self._members += 1
        self._unpacked_bytes += size_bytes
        if self._members > limits.members_max:
            raise ParseFailed("too_large", f"The archive has more than {limits.members_max:,} files. Split it.")
        self._judge_size()
        if _leaves(name):
            return ParseFailed("unsupported", f"{name}: the name leads out of the archive, so the file was left out.")
        if size_bytes > limits.file_bytes_max:
            return ParseFailed(
                "too_large",
                f"{name}: the file has {size_bytes / 1e6:,.0f} MB; at most {limits.file_bytes_max / 1e6:,.0f} MB are "
                "read. Split it.",
            )
        if shutil.disk_usage(self._into).free - size_bytes < limits.free_bytes_min:
            raise ParseFailed("no_room", "There is no room on the server's disk to unpack the archive.")
        return None

    def _judge_size(self) -> None:
        limits = self.limits
        if self._unpacked_bytes > limits.unpacked_bytes_max:
            raise ParseFailed(
                "too_large", f"The archive unpacks to more than {limits.unpacked_bytes_max / 1e6:,.0f} MB. Split it."
            )
        bomb = self._unpacked_bytes > self._packed_bytes * limits.unpacked_ratio_max
        if bomb and self._unpacked_bytes > limits.unpacked_floor_bytes:
            raise ParseFailed("too_large", "The archive unpacks to so much from so little, as only a zip bomb does.")


def _expand_zip(path: Path, into: Path, budget: _Budget) -> Iterator[Member]:
    with zipfile.ZipFile(path) as archive:
        members = [one for one in archive.infolist() if not one.is_dir() and not _is_link(one)]
        if any(one.flag_bits & _ENCRYPTED for one in members):
            raise ParseFailed("encrypted", "The archive is protected by a password. Pack it again without one.")
        names = _zip_names(members)
        for number, (member, name) in enumerate(zip(members, names, strict=True)):
            if _is_litter(name):
                continue
            problem = budget.admit(name, member.file_size) or _unzip(archive, member, into / f"{number:06}", name)
            yield Member(name, None if problem else into / f"{number:06}", problem)


def _expand_tar(path: Path, into: Path, budget: _Budget) -> Iterator[Member]:
    with tarfile.open(path, "r|gz") as archive:
        for number, member in enumerate(archive):
            name = clean(member.name.encode("utf-8", "surrogateescape").decode("utf-8", "replace"))
            if not member.isreg() or _is_litter(name):
                budget.admit("", member.size)  # passing over it unpacks it all the same
                continue
            problem = budget.admit(name, member.size)
            stream = archive.extractfile(member) if problem is None else None
            if stream is not None:
                problem = _write(stream, into / f"{number:06}", name, member.size)
            yield Member(name, None if problem else into / f"{number:06}", problem)


def _unzip(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, name: str) -> ParseFailed | None:
    try:
        with archive.open(member) as stream:
            return _write(stream, target, name, member.file_size)
    except NotImplementedError as error:
        return ParseFailed("unsupported", f"{name}: packed in a way that is not read here ({error}). Pack it again.")
    except zipfile.BadZipFile as error:
        return ParseFailed("corrupt", f"{name}: damaged inside the archive ({error}). Pack it again.")


def _write(stream: IO[bytes], target: Path, name: str, size_bytes: int) -> ParseFailed | None:
    try:
        with target.open("xb") as file:
            # whatever a packer claims, no more is written than was admitted
            while size_bytes > 0 and (piece := stream.read(min(PIECE_BYTES, size_bytes))):
                size_bytes -= len(piece)
                file.write(piece)
            stream.read(1)  # the end is where checksums are compared
    except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, OSError) as error:
        target.unlink()
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the disk's fault; bzip2 complains of its data without a number
        return ParseFailed("corrupt", f"{name}: damaged inside the archive ({error}). Pack it again.")
    return None


def _zip_names(members: list[zipfile.ZipInfo]) -> list[str]:
    """Old packers write names in the encoding of their system and do not say which: it is told from all of them."""
    raw = [one.filename.encode("cp437") for one in members if not one.flag_bits & _UTF8]
    _, encoding, _ = decode(b"\n".join(raw)) if raw else ("", "utf-8", "")
    return [
        clean(one.filename if one.flag_bits & _UTF8 else one.filename.encode("cp437").decode(encoding, "replace"))
        for one in members
    ]


def _is_link(member: zipfile.ZipInfo) -> bool:
    return stat.S_ISLNK(member.external_attr >> 16)


def _is_litter(name: str) -> bool:
    parts = name.replace("\\", "/").lower().split("/")
    return any(part in _LITTER or (part.startswith(".") and part != "..") for part in parts)


def _leaves(name: str) -> bool:
    parts = name.replace("\\", "/").split("/")
    return name.startswith(("/", "\\")) or ".." in parts or name[1:2] == ":" or len(name) > NAME_CHARACTERS_MAX
