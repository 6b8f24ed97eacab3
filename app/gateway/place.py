"""Where the web process and its gateway meet: a Unix socket of packets below the data directory, for this user only.

Knows nothing of what is said there (reef/contracts/handover.py).
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from reef.settings import Settings

PATH_BYTES_MAX = 107
"""sun_path has 108, the last of which is a zero."""
BACKLOG = 64
_PEER = struct.Struct("3i")


def path_of(settings: Settings) -> Path:
    """The socket of this data directory."""
    return settings.data_dir / "run" / "gateway.sock"


def supported() -> bool:
    """Whether this platform can pass an open socket to another process, packet by packet (Linux can)."""
    if not all(hasattr(socket, name) for name in ("AF_UNIX", "SOCK_SEQPACKET", "SCM_RIGHTS", "SO_PEERCRED")):
        return False
    try:
        socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).close()
    except OSError:
        return False
    return True


class Listening:
    """A listening socket at a path, readable and writable for this user alone."""

    def __init__(self, path: Path) -> None:
        """Takes the path over from whoever had it. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.unlink(missing_ok=True)
        self.path = path
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            with _address(path) as address:
                self.socket.bind(address)
            path.chmod(0o600)  # nobody can connect before `listen`
            self._inode = path.stat().st_ino
            self.socket.listen(BACKLOG)
            self.socket.setblocking(False)
        except OSError:
            self.socket.close()
            raise

    def close(self) -> None:
        """Listen no more. A successor's socket at the same path is left alone."""
        self.socket.close()
        with contextlib.suppress(OSError):
            if self.path.stat().st_ino == self._inode:
                self.path.unlink()


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to who listens there, with this timeout. Raises OSError: at once, where nobody does."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        connection.setblocking(False)  # here it connects at once or not at all; gevent would try again and again
        with _address(path) as address:
            connection.connect(address)
        if not same_user(connection):
            raise PermissionError(f"{path} belongs to another user's process")
        connection.settimeout(timeout_s)
    except OSError:
        connection.close()
        raise
    return connection


def same_user(connection: socket.socket) -> bool:
    """Whether the process at the other end runs as this user. Raises OSError."""
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
    _pid, uid, _gid = _PEER.unpack(raw)
    return bool(uid == os.geteuid())


@contextmanager
def _address(path: Path) -> Iterator[str]:
    """What to bind or connect to. A path that is too long is reached through its directory, opened."""
    if len(os.fsencode(path)) <= PATH_BYTES_MAX:
        yield str(path)
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)
