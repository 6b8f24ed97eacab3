"""What waits while a client reads slower than it is written to, and who waits for it. Exists only while it does.

Says what happens when it is full (limits.WhenFull); never touches the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque

from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data

WRITE_BUFFER_BYTES = 64 * 1024
"""What the transport holds for a client, beside the kernel's buffer; what is more waits here."""


class Gone(ConnectionError):
    """The connection is closed, or closing; nothing more can be sent."""


class Full(Exception):
    """There is no room, and the policy does not make any."""


class Outbox:
    """One slow client's waiting messages.

    Frames are held as they are; messages of a connection that compresses are held as they came, since what is
    compressed once must be sent.
    """

    __slots__ = ("_bytes", "_messages", "_waiters", "closing", "paused", "pong", "since")

    def __init__(self, tick: int) -> None:
        self._messages: deque[Data] = deque()
        self._bytes = 0
        self._waiters: list[asyncio.Future[None]] = []
        self.paused = True
        """The transport takes nothing."""
        self.pong = b""
        """Only the newest ping needs an answer (RFC 6455, section 5.5.3), so a flood of them needs one place."""
        self.closing = b""
        """The closing frame, after everything else."""
        self.since = tick
        """When the client last took something."""

    def __len__(self) -> int:
        return len(self._messages)

    def put(self, data: Data, limits: Limits) -> int:
        """Let it wait. Gives how many older ones were thrown away for it. Raises Full."""
        dropped = 0
        size = len(data)
        if size > limits.outbox_bytes_max:
            raise Full
        while self._over(size, limits):
            if limits.when_full != "drop_oldest" or not self._messages:
                raise Full
            self._bytes -= len(self._messages.popleft())
            dropped += 1
        self._messages.append(data)
        self._bytes += size
        return dropped

    def _over(self, size: int, limits: Limits) -> bool:
        return len(self._messages) >= limits.outbox_messages_max or self._bytes + size > limits.outbox_bytes_max

    def take(self) -> list[Data]:
        """The next ones, about as many as the transport holds."""
        taken: list[Data] = []
        size = 0
        while self._messages and size < WRITE_BUFFER_BYTES:
            data = self._messages.popleft()
            size += len(data)
            taken.append(data)
        self._bytes -= size
        return taken

    def clear(self) -> int:
        """Throw all away; gives how many."""
        dropped = len(self._messages)
        self._messages.clear()
        self._bytes = 0
        return dropped

    def wait(self) -> asyncio.Future[None]:
        """Done when nothing waits any more; fails with Gone where the connection ends before."""
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        return waiter

    def emptied(self) -> None:
        """Wake who waits."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_result(None)

    def lost(self) -> None:
        """Tell who waits that it was in vain."""
        for waiter in self._waiters:
            if not waiter.done():
                waiter.set_exception(Gone("The connection ended before it had taken everything."))
