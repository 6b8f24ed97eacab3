"""What travels: a message is text or bytes. Knows no frames and no sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from websocket_fabric.connection import Connection

Data = str | bytes


class Message:
    """One message, and the connection that it came from (None for one that was made here)."""

    __slots__ = ("connection", "data")

    def __init__(self, data: Data, connection: Connection | None = None) -> None:
        self.data = data
        self.connection = connection

    @property
    def is_text(self) -> bool:
        """Whether it is text (opcode 1), not bytes (opcode 2)."""
        return isinstance(self.data, str)

    def __repr__(self) -> str:
        return f"Message({self.data!r})"
