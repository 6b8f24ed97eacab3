"""The client's end of a connection: whether it is still there."""

from __future__ import annotations

import select
import socket
from collections.abc import Callable
from typing import Any


def client_gone(environ: dict[str, Any]) -> Callable[[], bool]:
    """A look at the client's socket: readable without a byte means that it hung up."""
    sock = environ.get("gunicorn.socket")

    def gone() -> bool:
        if sock is None:
            return False
        try:
            readable, _, _ = select.select([sock], [], [], 0)
            return bool(readable) and sock.recv(1, socket.MSG_PEEK) == b""
        except (OSError, ValueError):
            return True

    return gone
