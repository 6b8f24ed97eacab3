"""Files of one request as they come in: each straight to disk, kept under its hash when it is complete.

Knows no protocol: multipart bodies (app/multipart.py) and gRPC streams (app/grpc_api/) are read with it.
"""

from __future__ import annotations

import uuid
from contextlib import ExitStack

import msgspec

from app.refusals import Refusal
from reef.knowledge.originals import Incoming, Kept, Originals, TooLarge
from reef.knowledge.uploads import too_long


class ReceivedFile(msgspec.Struct, frozen=True):
    """A file of the request, kept."""

    name: str
    kept: Kept


class FilePart:
    """A file that is being received. What was received is garbage unless a row names it."""

    def __init__(self, originals: Originals, filename: str, bytes_max: int) -> None:
        """Raises DiskFull."""
        self._originals, self.filename, self.name = originals, filename, uuid.uuid4().hex
        self._bytes_max = bytes_max
        self._stack = ExitStack()
        self._incoming: Incoming = self._stack.enter_context(originals.receive(self.name, bytes_max=bytes_max))
        self.kept: Kept | None = None

    def write(self, data: bytes) -> int:
        """Append. Raises DiskFull, and Refusal where it turns out too long."""
        try:
            return self._incoming.write(data)
        except TooLarge:
            detail = f"{self.filename}: {too_long(self.filename, self._bytes_max)}"
            raise Refusal(413, "file_too_large", "File too large", detail) from None

    def finish(self) -> Kept:
        """All of it is here: keep it. Raises DiskFull."""
        self._stack.close()
        self.kept = self._originals.keep(self.name)
        return self.kept

    def close(self) -> None:
        """Leave nothing half-received behind."""
        self._stack.close()
        self._originals.discard(self.name)


def check_files(count: int, files_max: int) -> None:
    """Raises Refusal where a request brings more files than that."""
    if count > files_max:
        detail = f"One request may carry {files_max} files; send the others in another one."
        raise Refusal(413, "too_many_files", "Too many files", detail)
