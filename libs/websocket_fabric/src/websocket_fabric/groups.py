"""Connections by name of a group, and one message for many of them. Knows no handler."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from websocket_fabric.messages import Data
from websocket_fabric.protocol import message_frame

if TYPE_CHECKING:
    from websocket_fabric.connection import Connection


class Groups:
    """Who is in which group. A group is there while somebody is in it."""

    def __init__(self) -> None:
        self._members: dict[str, dict[Connection, None]] = {}

    def join(self, connection: Connection, group: str) -> None:
        """Put it in; it may be in many."""
        if connection.groups is None:
            connection.groups = set()
        connection.groups.add(group)
        self._members.setdefault(group, {})[connection] = None

    def leave(self, connection: Connection, group: str) -> None:
        """Take it out; nothing happens where it is not in."""
        if connection.groups is not None:
            connection.groups.discard(group)
        members = self._members.get(group)
        if members is not None:
            members.pop(connection, None)
            if not members:
                del self._members[group]

    def leave_all(self, connection: Connection) -> None:
        """Take it out of all."""
        for group in tuple(connection.groups or ()):
            self.leave(connection, group)

    def members(self, group: str) -> Iterable[Connection]:
        """Who is in."""
        return self._members.get(group, ())

    def __len__(self) -> int:
        return len(self._members)

    def broadcast(self, data: Data, to: Iterable[Connection], exclude: Connection | None) -> int:
        """Send one message to many; it is encoded once. Gives how many took it."""
        # uncompressed, which is allowed where deflate was agreed: one compressed frame cannot serve two windows
        frame = message_frame(data)
        sent = 0
        for connection in tuple(to):
            if connection is not exclude and connection.send_frame(frame, data):
                sent += 1
        return sent
