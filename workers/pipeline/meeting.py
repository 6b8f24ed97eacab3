"""Where the stages of this machine find each other: a folder of Unix sockets, one for each node. Says nothing itself.

A socket's path may have 107 bytes only, which a data directory can have by itself: it is reached through its file
descriptor. The folder is this user's alone.
"""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path

from workers.pipeline.wire import Broken, Link

TRY_EVERY_S = 0.02
BACKLOG = 4


class Meeting:
    """The folder. Safe to share between threads."""

    def __init__(self, data_dir: Path) -> None:
        folder = data_dir / "run" / "pipeline"
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._closed = threading.Event()

    def listen(self, node: str) -> socket.socket:
        """The place of a node; one that a dead process left behind is taken over."""
        place = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(node, dir_fd=self._folder)
        place.bind(self._path(node))
        place.listen(BACKLOG)
        return place

    def reach(self, node: str, wait_s: float, trying: Callable[[], None] = lambda: None) -> Link:
        """A connection to a node, which may just be starting. Raises Broken where it is not there in time.

        `trying` is called before each try, and may raise.
        """
        deadline = time.monotonic() + wait_s
        while True:
            trying()
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(self._path(node))
                return Link(connection)
            except OSError as error:
                connection.close()
                if time.monotonic() > deadline:
                    raise Broken(f"stage {node} is not there ({error.strerror}), {wait_s:.0f} s long") from error
            if self._closed.wait(TRY_EVERY_S):
                raise Broken("this worker stops")

    def close(self) -> None:
        """Nobody is waited for any more."""
        if not self._closed.is_set():
            self._closed.set()
            os.close(self._folder)

    def _path(self, node: str) -> str:
        return f"/proc/self/fd/{self._folder}/{node}"
