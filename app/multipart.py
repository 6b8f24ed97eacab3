"""A multipart body as it comes in: each file goes straight to disk, only short fields are held in memory."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
from flask import request
from werkzeug.datastructures import MultiDict
from werkzeug.formparser import MultiPartParser

from app.receiving import FilePart, ReceivedFile, check_files
from app.refusals import Refusal
from reef.knowledge.originals import Originals
from reef.knowledge.uploads import Limits

FIELDS_BYTES_MAX = 1024 * 1024
"""Of all fields that are no files together: names of a few thousand files."""
BUFFER_BYTES = 256 * 1024
PARTS_EXTRA_MAX = 64
"""Parts that are neither a file nor its path."""


class Form(msgspec.Struct, frozen=True):
    """A body that was read."""

    fields: MultiDict[str, str]
    files: list[ReceivedFile]


class _Part(FilePart):
    """What werkzeug writes a file to."""

    def seek(self, _place: int) -> int:
        """werkzeug's way to say that the file is complete."""
        self.finish()
        return 0


@contextmanager
def receive_form(originals: Originals, limits: Limits) -> Iterator[Form]:
    """Read the request's body. Files that were received are garbage unless a row names them.

    Raises Refusal, DiskFull, and what werkzeug raises for a body that cannot be read.
    """
    boundary = request.mimetype_params.get("boundary", "")
    if request.mimetype != "multipart/form-data" or not boundary.isascii() or not boundary:
        raise Refusal(415, "not_multipart", "Not multipart", "Send the files as multipart/form-data.")
    parts: list[_Part] = []

    def begin(*, filename: str | None, **_about: Any) -> _Part:
        check_files(len(parts) + 1, limits.files_max)
        parts.append(_Part(originals, filename or "", limits.bytes_max(filename or "")))
        return parts[-1]

    parser = MultiPartParser(
        stream_factory=begin,  # type: ignore[arg-type]
        max_form_memory_size=FIELDS_BYTES_MAX,
        max_form_parts=2 * limits.files_max + PARTS_EXTRA_MAX,
        buffer_size=BUFFER_BYTES,
    )
    try:
        try:
            fields, _ = parser.parse(request.stream, boundary.encode(), request.content_length)
        except ValueError as error:
            raise Refusal(400, "bad_multipart", "Bad body", f"The multipart body cannot be read: {error}.") from None
        yield Form(fields, _named(parts, fields.getlist("paths")))
    finally:
        for part in parts:
            part.close()


def _named(parts: list[_Part], paths: list[str]) -> list[ReceivedFile]:
    """Files under their names; `paths` names them better, since browsers send no folders."""
    if paths and len(paths) != len(parts):
        detail = f"There are {len(parts)} files and {len(paths)} `paths`; send a path for each file, or none."
        raise Refusal(400, "bad_paths", "Bad paths", detail)
    found = []
    for part, name in zip(parts, paths or [part.filename for part in parts], strict=True):
        if part.kept is None:
            raise Refusal(400, "bad_multipart", "Bad body", "The multipart body ends in the middle of a file.")
        if name:  # a browser sends an empty part where no file was chosen
            found.append(ReceivedFile(name, part.kept))
    return found
