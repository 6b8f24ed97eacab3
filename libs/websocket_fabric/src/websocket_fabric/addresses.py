"""Where a server listens: an address as it is written, and the place in the file system that a Unix socket takes.

A path is somebody's: only a socket that nobody answers is removed, and at the end only the one that we made.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import stat
from dataclasses import dataclass

UNIX = "unix:"
PORT_MAX = 65535

_tcp = re.compile(r"(?:\[([\w:.%]+)\]|([^\[\]:/\s]+)):([0-9]{1,5})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Address:
    """One of both: a path, or a host and a port (0: any that is free)."""

    path: str = ""
    host: str = ""
    port: int = 0


def read_address(text: str) -> Address:
    """What `host:port`, `[::1]:port` or `unix:/path` means. Raises ValueError."""
    if text.startswith(UNIX) and text != UNIX:
        return Address(path=text.removeprefix(UNIX))
    match = _tcp.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} is no address; write host:port, [::1]:port or unix:/path. A host is needed: 127.0.0.1 for this "
            "machine alone, 0.0.0.0 for every interface."
        )
    if int(match[3]) > PORT_MAX:
        raise ValueError(f"{text!r} is no address: a port is 0 to {PORT_MAX}.")
    return Address(host=match[1] or match[2], port=int(match[3]))


class UnixPlace:
    """The path of our listening socket, from `bind` to `free`."""

    __slots__ = ("_made", "path")

    def __init__(self, path: str) -> None:
        self.path = path
        self._made: tuple[int, int] | None = None

    def bind(self) -> socket.socket:
        """A socket that is bound there. Raises OSError where something else is, or somebody listens."""
        bound = socket.socket(socket.AF_UNIX)
        try:
            self._make_room()
            bound.bind(self.path)
            self._made = _inode(self.path)
        except BaseException:
            bound.close()
            raise
        return bound

    def free(self) -> None:
        """Remove what we made, where it is still there.

        Before the socket is closed: as long as it is open, its inode is given to no other file.
        """
        if self._made is not None and _inode(self.path) == self._made:
            os.unlink(self.path)
        self._made = None

    def _make_room(self) -> None:
        try:
            kind = os.lstat(self.path).st_mode
        except FileNotFoundError:
            return
        if not stat.S_ISSOCK(kind):
            raise FileExistsError(
                errno.EEXIST, "What is there is no socket, so it is not removed; name another path", self.path
            )
        if _is_answered(self.path):
            raise OSError(errno.EADDRINUSE, "Somebody listens there; stop them or name another path", self.path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self.path)


def _is_answered(path: str) -> bool:
    with socket.socket(socket.AF_UNIX) as asking:
        # who has a full backlog is there, too: nobody waits for it
        asking.setblocking(False)
        try:
            asking.connect(path)
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except OSError:
            return True
        return True


def _inode(path: str) -> tuple[int, int] | None:
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
