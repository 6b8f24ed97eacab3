"""Files that came in a zip archive: each becomes a document of its own, named by its path in the archive.

The archive's own row ends as `replaced`: its members took its place. Sizes are judged while they are unpacked, never
by what the archive says of itself.
"""

from __future__ import annotations

import time
import uuid
import zipfile
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.knowledge import changes
from reef.knowledge.names import NAME_CHARS_MAX, BadName, clean_name, is_hidden
from reef.knowledge.originals import Kept, Originals, TooLarge
from reef.knowledge.progress import Change
from reef.ports import Cancelled, Hold, ParseFailed
from reef.records.tables import document_stores, documents

SUFFIX = ".zip"
DEPTH_MAX = 3
"""Archives in archives."""
MEMBERS_MAX = 10_000
MEMBER_BYTES_MAX = 256 * 1024 * 1024
TOTAL_BYTES_MAX = 2 * 1024 * 1024 * 1024
RATIO_MAX = 200
"""Unpacked by packed bytes, judged above RATIO_FLOOR_BYTES."""
RATIO_FLOOR_BYTES = 10 * 1024 * 1024
READ_BYTES = 256 * 1024


class Member(msgspec.Struct, frozen=True):
    """A file of an archive, whose bytes are kept."""

    name: str
    kept: Kept


def is_archive(name: str) -> bool:
    """Whether a file of this name is unpacked and not read."""
    return name.lower().endswith(SUFFIX)


def unpack(originals: Originals, path: Path, name: str, hold: Hold) -> list[Member]:
    """Keep the files of this archive. Raises ParseFailed, Cancelled, and DiskFull."""
    if name.lower().count(f"{SUFFIX}/") >= DEPTH_MAX:
        raise ParseFailed("too_large", f"Archives are nested deeper than {DEPTH_MAX} times; unpack them yourself.")
    try:
        with zipfile.ZipFile(path) as archive:
            entries = [entry for entry in archive.infolist() if not entry.is_dir() and not is_hidden(entry.filename)]
            if len(entries) > MEMBERS_MAX:
                raise ParseFailed("too_large", f"It has {len(entries)} files; {MEMBERS_MAX} are the limit.")
            return _unpack(originals, archive, entries, path.stat().st_size, hold)
    except (zipfile.BadZipFile, zipfile.LargeZipFile, EOFError, ValueError, OSError) as error:
        raise ParseFailed("corrupt", f"This archive cannot be unpacked: {error}.") from error
    except NotImplementedError as error:
        raise ParseFailed("unsupported", f"This archive is packed in a way that is not supported: {error}.") from error
    except RuntimeError as error:
        raise ParseFailed("encrypted", f"This archive cannot be unpacked: {error}.") from error


def _unpack(
    originals: Originals, archive: zipfile.ZipFile, entries: list[zipfile.ZipInfo], packed_bytes: int, hold: Hold
) -> list[Member]:
    found: list[Member] = []
    left = min(TOTAL_BYTES_MAX, max(RATIO_FLOOR_BYTES, packed_bytes * RATIO_MAX))
    for entry in entries:
        try:
            name = clean_name(entry.filename)
        except BadName as error:
            raise ParseFailed("corrupt", f"A file in this archive has no usable name: {error}") from None
        try:
            kept = _keep(originals, archive, entry, min(left, MEMBER_BYTES_MAX), hold)
        except TooLarge:
            raise ParseFailed("too_large", f"{name} in this archive is too large when unpacked.") from None
        left -= kept.size_bytes
        found.append(Member(name, kept))
        hold.progressed()
    if not found:
        raise ParseFailed("empty", "There is no file in this archive.")
    return found


def _keep(originals: Originals, archive: zipfile.ZipFile, entry: zipfile.ZipInfo, bytes_max: int, hold: Hold) -> Kept:
    temporary = uuid.uuid4().hex
    try:
        with originals.receive(temporary, bytes_max=bytes_max) as incoming, archive.open(entry) as member:
            while block := member.read(READ_BYTES):
                if hold.cancel.is_set():
                    raise Cancelled
                incoming.write(block)
        return originals.keep(temporary)
    finally:
        originals.discard(temporary)


def take_in(connection: sa.Connection, archive: Any, inside: list[Member], now: float) -> list[Change]:
    """Members take the place of their archive, within the caller's transaction."""
    stores = sorted(changes.stores_of(connection, archive["id"]))
    told: list[Change] = []
    for number, member in enumerate(inside):
        document_id = uuid.uuid4().hex
        connection.execute(
            documents.insert().values(
                id=document_id,
                upload_id=archive["upload_id"],
                name=f"{archive['name']}/{member.name}"[-NAME_CHARS_MAX:],
                size_bytes=member.kept.size_bytes,
                received_bytes=member.kept.size_bytes,
                sha256=member.kept.sha256,
                state="receiving",
                state_at=now,
                created_at=archive["created_at"] + number * 1e-6,  # in the archive's order, and as old as it
            )
        )
        rows = [{"document_id": document_id, "store": store} for store in stores]
        connection.execute(document_stores.insert(), rows)
        told += changes.admit(connection, document_id, time.time())
    reason = f"It was unpacked: its {len(inside)} files took its place."
    return told + changes.leave(connection, [archive["id"]], "replaced", now, reason=reason)
