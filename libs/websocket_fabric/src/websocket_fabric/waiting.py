"""Messages that arrived and wait to be handled or received, and whether they are so many that nothing more is read.

Full by number or by bytes; text counts in characters. Knows no handlers and no sockets.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import islice

from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data

UNKNOWN = -1


class Waiting(deque[Data]):
    """A queue that counts its bytes only where its number does not decide: a flood of small ones costs no counting."""

    __slots__ = ("_bytes", "_limits")

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self._limits = limits
        self._bytes = 0

    def put(self, messages: Iterable[Data]) -> None:
        """Add what arrived."""
        before = len(self)
        self.extend(messages)
        added = len(self) - before
        if before + added >= self._limits.inbox_messages_max:
            self._bytes = UNKNOWN
        elif added and self._bytes != UNKNOWN:
            self._bytes += sum(map(len, islice(reversed(self), added)))

    def take(self) -> Data:
        """The next one."""
        data = self.popleft()
        if self._bytes != UNKNOWN:
            self._bytes -= len(data)
        return data

    @property
    def is_full(self) -> bool:
        """Whether nothing more should be read. What one read brought is always taken, so one that is longer passes."""
        return len(self) >= self._limits.inbox_messages_max or self._counted() >= self._limits.inbox_bytes_max

    @property
    def has_room(self) -> bool:
        """Whether reading should go on: half of it is free again."""
        limits = self._limits
        return len(self) <= limits.inbox_messages_max // 2 and self._counted() <= limits.inbox_bytes_max // 2

    def _counted(self) -> int:
        if self._bytes == UNKNOWN:
            self._bytes = sum(map(len, self))
        return self._bytes
