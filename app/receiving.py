"""Files of one request as they come in: each straight to disk, kept under its hash when it is complete.

Knows no protocol: multipart bodies (app/multipart.py) and gRPC streams (app/grpc_api/) are read with it.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import msgspec

from app.refusals import Refusal
from reef.knowledge.originals import Incoming, Kept, Originals, TooLarge


class ReceivedFile(msgspec.Struct, frozen=True):
    """A file of the request, kept."""

    name: str
    kept: Kept


class FilePart:
    """A file that is being received. What was received is garbage unless a row names it."""

    def __init__(self, originals: Originals, filename: str, bytes_max: int) -> None:
        """Raises DiskFull."""
        self._originals, self.filename, self.name = originals, filename, uuid.uuid4().hex
        self._stack = ExitStack()
        self._incoming: Incoming = self._stack.enter_context(originals.receive(self.name, bytes_max=bytes_max))
        self.kept: Kept | None = None

    def write(self, data: bytes) -> int:
        """Append. Raises TooLarge and DiskFull."""
        return self._incoming.write(data)

    def finish(self) -> Kept:
        """All of it is here: keep it. Raises DiskFull."""
        self._stack.close()
        self.kept = self._originals.keep(self.name)
        return self.kept

    def close(self) -> None:
        """Leave nothing half-received behind."""
        self._stack.close()
        self._originals.discard(self.name)


@contextmanager
def file_limit(file_bytes_max: int) -> Iterator[None]:
    """A file that turns out too long is refused in words."""
    try:
        yield
    except TooLarge:
        raise Refusal(413, "file_too_large", "File too large", f"A file may have {file_bytes_max} bytes.") from None


def check_files(count: int, files_max: int) -> None:
    """Raises Refusal where a request brings more files than that."""
    if count > files_max:
        detail = f"One request may carry {files_max} files; send the others in another one."
        raise Refusal(413, "too_many_files", "Too many files", detail)
