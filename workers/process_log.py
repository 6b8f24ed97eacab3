"""The log file of one process: lines appended, secrets blotted out, size bounded by rotation. Never parses a line."""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence
from pathlib import Path

FILE_BYTES_MAX = 5 * 1024 * 1024
FILES_KEPT = 3
LINE_BYTES_MAX = 64 * 1024
BLOT = b"[secret]"


class ProcessLog:
    """Appends the output of a process to NAME.log; full files become NAME.log.1, NAME.log.2 and then go."""

    def __init__(
        self,
        path: Path,
        secrets: Sequence[str] = (),
        *,
        file_bytes_max: int = FILE_BYTES_MAX,
        files_kept: int = FILES_KEPT,
        echo: int | None = None,
    ) -> None:
        """`echo`: a file descriptor that gets the same lines, for container logs and journals."""
        self.path = path
        self._secrets = [secret.encode() for secret in secrets if secret]
        self._file_bytes_max = file_bytes_max
        self._files_kept = files_kept
        self._echo = echo
        self._rest = b""
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._size_bytes = os.fstat(self._file).st_size

    def feed(self, data: bytes) -> None:
        """Take a piece of output. Whole lines are written, so that a secret is never cut in two and missed."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        if len(self._rest) > LINE_BYTES_MAX:
            lines.append(self._rest)
            self._rest = b""
        if lines:
            self._write(b"\n".join(lines) + b"\n")

    def close(self) -> None:
        """Write what is left of a last line and close the file."""
        if self._rest:
            self._write(self._rest + b"\n")
            self._rest = b""
        os.close(self._file)

    def _write(self, data: bytes) -> None:
        for secret in self._secrets:
            data = data.replace(secret, BLOT)
        if self._size_bytes and self._size_bytes + len(data) > self._file_bytes_max:
            self._rotate()
        # A full disk must not end the supervisor: these lines are lost, the processes live on.
        with contextlib.suppress(OSError):
            self._size_bytes += os.write(self._file, data)

        if self._echo is not None:
            self._repeat(self._echo, data)

    @staticmethod
    def _repeat(echo: int, data: bytes) -> None:
        """A reader that does not keep up misses lines: they are in the file, and the writer must not wait for it."""
        with contextlib.suppress(OSError, ValueError):
            for start in range(0, len(data), select.PIPE_BUF):
                if not select.select([], [echo], [], 0)[1]:
                    return
                os.write(echo, data[start : start + select.PIPE_BUF])

    def _rotate(self) -> None:
        with contextlib.suppress(OSError):
            for number in range(self._files_kept - 1, 0, -1):
                older = self._numbered(number)
                if older.exists():
                    older.replace(self._numbered(number + 1))
            self.path.replace(self._numbered(1))
            for extra in range(self._files_kept, self._files_kept + 2):
                self._numbered(extra).unlink(missing_ok=True)
            fresh = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
            os.close(self._file)
            self._file = fresh
            self._size_bytes = 0

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


def tail(path: Path, lines_max: int = 15) -> list[str]:
    """The last lines of a log file, for an error message."""
    try:
        with path.open("rb") as file:
            file.seek(0, os.SEEK_END)
            file.seek(max(0, file.tell() - LINE_BYTES_MAX))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line for line in text.splitlines() if line.strip()][-lines_max:]
