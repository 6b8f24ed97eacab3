"""How much one file may cost before it is refused. Numbers only; each is enforced where it is named."""

from __future__ import annotations

import msgspec

MIB = 1024 * 1024
DOCUMENT_BYTES_MAX = 100_000_000
"""Of a file that is read: everything but an archive, whose files are."""


class ParseLimits(msgspec.Struct, frozen=True, kw_only=True):
    """Limits of one file."""

    file_bytes_max: int = DOCUMENT_BYTES_MAX
    unpacked_bytes_max: int = 512 * MIB
    """Of everything inside a zip-based document or an archive."""
    unpacked_ratio_max: int = 200
    """Unpacked by packed bytes, judged above `unpacked_floor_bytes`: small documents may well be blank paper."""
    unpacked_floor_bytes: int = 10 * MIB
    entries_max: int = 10_000
    """Members of a zip-based document or an archive."""
    pages_max: int = 5_000
    characters_max: int = 20_000_000
    attachments_max: int = 100
    """Of one mail or mailbox, those in forwarded mails included."""
    ocr_pages_max: int = 200
    time_s: float = 120.0
    """By the clock, and of processor time as well."""
    memory_bytes_max: int = 1536 * MIB
    """Address space of the child that reads the file."""
    written_bytes_max: int = 256 * MIB
    """Of one temporary file that a child writes."""
