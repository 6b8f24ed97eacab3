"""Zip-based documents looked through before any parser sees them: bombs, damage, encryption. Extracts nothing."""

from __future__ import annotations

import zipfile
import zlib
from typing import BinaryIO

from reef.knowledge.parsing.limits import ParseLimits
from reef.ports import ParseFailed

PIECE_BYTES = 1024 * 1024
_ENCRYPTED = 0x1
MANIFEST_BYTES_MAX = 4 * 1024 * 1024


def check_zip(file: BinaryIO, limits: ParseLimits) -> None:
    """Raises ParseFailed unless everything inside unpacks within the limits and matches its checksum."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = archive.infolist()
            check_members(members, limits)
            if any(member.filename == "META-INF/manifest.xml" for member in members):
                _check_manifest(archive)
            for member in members:
                _unpack(archive, member, limits)
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError) as error:
        raise ParseFailed("corrupt", f"The file is damaged: {error}. Save it again or send another copy.") from None
    except (NotImplementedError, RuntimeError) as error:
        raise ParseFailed("corrupt", f"The file is packed in a way that cannot be read: {error}.") from None


def check_members(members: list[zipfile.ZipInfo], limits: ParseLimits) -> None:
    """Judge a zip by what its directory says, before anything is unpacked."""
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise ParseFailed("encrypted", "The file is protected by a password. Remove the password and send it again.")
    if len(members) > limits.entries_max:
        raise ParseFailed("too_large", f"The file has {len(members):,} parts; at most {limits.entries_max:,} are read.")
    unpacked = sum(member.file_size for member in members)
    packed = sum(member.compress_size for member in members)
    if unpacked > limits.unpacked_bytes_max:
        raise ParseFailed(
            "too_large",
            f"The file would unpack to {unpacked / 1e6:,.0f} MB; at most {limits.unpacked_bytes_max / 1e6:,.0f} MB "
            "are read.",
        )
    if unpacked > limits.unpacked_floor_bytes and unpacked > packed * limits.unpacked_ratio_max:
        raise ParseFailed(
            "too_large",
            f"The file would unpack to {unpacked // max(packed, 1):,} times its size, as only a zip bomb does.",
        )


def _check_manifest(archive: zipfile.ZipFile) -> None:
    """OpenDocument encrypts its members without the zip knowing."""
    with archive.open("META-INF/manifest.xml") as manifest:
        if b"encryption-data" in manifest.read(MANIFEST_BYTES_MAX):
            raise ParseFailed(
                "encrypted", "The file is protected by a password. Remove the password and send it again."
            )


def _unpack(archive: zipfile.ZipFile, member: zipfile.ZipInfo, limits: ParseLimits) -> None:
    """Read a member to its end and forget it: its checksum tells damage that parsers pass over in silence."""
    if member.file_size > limits.unpacked_bytes_max:
        raise ParseFailed("too_large", f"{member.filename} inside the file is too large.")
    with archive.open(member) as stream:
        while stream.read(PIECE_BYTES):
            pass
