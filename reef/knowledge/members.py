"""Files that came in an archive: each becomes a document of its own, named by its path in the archive.

The archive's own row ends as `replaced`: its members took its place. A member that cannot be had is a failed document
beside its neighbours; an archive that is itself at fault fails as a whole and brings none. How archives are unpacked is
in archives.py, how the bytes are kept in originals.py.
"""

from __future__ import annotations

import errno
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.knowledge import changes
from reef.knowledge.archives import ArchiveLimits, Member, expand, is_archive
from reef.knowledge.names import NAME_CHARS_MAX, PARTS_MAX, BadName, clean_name, distinct_name
from reef.knowledge.originals import Kept, Originals
from reef.knowledge.progress import Change
from reef.ports import Cancelled, Hold, ParseFailed
from reef.records.tables import documents

TAKEN_TOGETHER = 100
"""Members whose rows are written in one transaction: others have their turn between two."""


class Inside(msgspec.Struct, frozen=True):
    """A file of an archive: its bytes, or why it could not be had."""

    number: int
    """In the archive's order."""
    name: str
    """As a part of a document's name, whatever the archive called it."""
    kept: Kept | None = None
    problem: ParseFailed | None = None


def unpack(originals: Originals, path: Path, name: str, hold: Hold, limits: ArchiveLimits) -> list[Inside]:
    """Keep the files of this archive. Raises ParseFailed where the archive is at fault, and Cancelled."""
    limits = msgspec.structs.replace(limits, free_bytes_min=originals.reserve_bytes)
    found: list[Inside] = []
    try:
        with originals.workplace() as into:
            for number, member in enumerate(expand(path, name.rpartition("/")[2], into, limits)):
                if hold.cancel.is_set():
                    raise Cancelled
                found.append(_keep(originals, number, member))
                hold.progressed()
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        reason = "There is no room on the server's disk to unpack the archive. Make room, then retry."
        raise ParseFailed("no_room", reason) from error
    if not found:
        raise ParseFailed("empty", "There is no file in this archive.")
    return found


def _keep(originals: Originals, number: int, member: Member) -> Inside:
    shown = _shown(member.name)
    if member.problem is not None or member.path is None:
        return Inside(number, shown, problem=member.problem)
    problem = _refusal(member.name)
    if problem is not None:
        member.path.unlink()
        return Inside(number, shown, problem=problem)
    return Inside(number, shown, originals.adopt(member.path))


def _refusal(name: str) -> ParseFailed | None:
    if is_archive(name):
        reason = "An archive inside an archive is not opened. Unpack it and upload its files, or upload it alone."
        return ParseFailed("unsupported", reason)
    try:
        clean_name(name)
    except BadName as error:
        return ParseFailed("unsupported", f"The file cannot be stored under its name: {error}")
    return None


def _shown(name: str) -> str:
    """The name with nothing in it that leads anywhere or cannot be printed."""
    printable = "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in name)
    parts = [part for part in printable.replace("\\", "/").split("/") if part not in ("", ".", "..")]
    return "/".join(parts[-PARTS_MAX + 1 :])[-NAME_CHARS_MAX:] or "file without a name"


def parts(inside: list[Inside]) -> Iterator[list[Inside]]:
    """The members as they are taken in, one transaction each."""
    return (inside[start : start + TAKEN_TOGETHER] for start in range(0, len(inside), TAKEN_TOGETHER))


def take_in(connection: sa.Connection, archive: Any, some: list[Inside], now: float) -> list[Change]:
    """Rows for these members, within the caller's transaction. Those that an attempt before made are left alone."""
    ids = {_row_id(archive["id"], member): member for member in some}
    query = sa.select(documents.c.id).where(documents.c.id.in_(list(ids)))
    for known in connection.execute(query).scalars():
        del ids[known]
    stores = sorted(changes.stores_of(connection, archive["id"]))
    told: list[Change] = []
    for document_id, member in ids.items():
        row = _row(document_id, archive, member, now)
        problem = member.problem or _name_apart(connection, row)
        connection.execute(documents.insert().values(row))
        changes.put_into(connection, document_id, stores)
        if problem is None:
            told += changes.admit(connection, document_id, now)
        else:
            told += changes.failed(connection, document_id, problem.code, str(problem), now)
    return told


def _name_apart(connection: sa.Connection, row: dict[str, Any]) -> ParseFailed | None:
    """Give the row a name that no other file of the upload has, or say why it cannot have one."""
    taken = changes.names_taken(connection, row["upload_id"], row["name"], row["sha256"])
    try:
        row["name"] = distinct_name(row["name"], taken)
    except BadName as error:
        return ParseFailed("unsupported", f"The file cannot be stored under its name: {error}")
    return None


def _row_id(archive_id: str, member: Inside) -> str:
    """The same whenever the archive is unpacked."""
    return uuid.uuid5(uuid.UUID(archive_id), str(member.number)).hex


def _row(document_id: str, archive: Any, member: Inside, now: float) -> dict[str, Any]:
    size_bytes = member.kept.size_bytes if member.kept else 0
    return {
        "id": document_id,
        "upload_id": archive["upload_id"],
        "name": f"{archive['name']}/{member.name}"[-NAME_CHARS_MAX:],
        "size_bytes": size_bytes,
        "received_bytes": size_bytes,
        "sha256": member.kept.sha256 if member.kept else None,
        "state": "receiving",
        "state_at": now,
        "created_at": archive["created_at"] + member.number * 1e-6,  # in the archive's order, and as old as it
    }


def give_way(connection: sa.Connection, archive_id: str, count: int) -> list[Change]:
    """All members are in, each kept as a file of its own: the archive has done its part."""
    reason = f"It was unpacked: its {count:,} files took its place."
    return changes.give_way(connection, archive_id, reason, time.time())
