"""Messages that arrived at a client and wait for the one who receives them: bounded, and outlives a connection.

Knows no frames and no sockets: who fills it looks at `full`, and is told through `on_room` when there is room again.
What full means is waiting.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data
from websocket_fabric.waiting import Waiting


class Inbox:
    """A queue with one receiver."""

    __slots__ = ("_in_hand", "_receiver", "_settled", "_waiting", "_was_full", "error", "on_room")

    def __init__(self, limits: Limits) -> None:
        self._waiting = Waiting(limits)
        self._was_full = False
        self._receiver: asyncio.Future[None] | None = None
        self._settled: asyncio.Future[None] | None = None
        self._in_hand = False
        self.error: BaseException | None = None
        """Why nothing more comes."""
        self.on_room: Callable[[], None] | None = None
        """Called when it was full and half of it was taken."""

    @property
    def full(self) -> bool:
        """Whether nothing more should be read. What one read brought is always taken."""
        return self._was_full

    def put(self, messages: Sequence[Data]) -> None:
        """Add what arrived."""
        self._waiting.put(messages)
        self._was_full = self._was_full or self._waiting.is_full
        _resolve(self._receiver)

    def end(self, error: BaseException) -> None:
        """Nothing more comes: whoever receives gets what waits, and then this."""
        if self.error is None:
            self.error = error
            _resolve(self._receiver)

    async def get(self) -> Data:
        """The next message. Asking for it says that the one before was dealt with."""
        if self._receiver is not None:
            raise RuntimeError("Two tasks receive from one connection; let one receive and hand out what it gets.")
        self._in_hand = False
        while not self._waiting:
            if self.error is not None:
                raise self.error
            _resolve(self._settled)
            self._receiver = asyncio.get_running_loop().create_future()
            try:
                await self._receiver
            finally:
                self._receiver = None
        self._in_hand = True
        message = self._waiting.take()
        if self._was_full and self._waiting.has_room:
            self._was_full = False
            if self.on_room is not None:
                self.on_room()
        return message

    async def settled(self) -> None:
        """Wait until nothing waits here, and the receiver has dealt with the last that it got."""
        while self._waiting or self._in_hand:
            self._settled = asyncio.get_running_loop().create_future()
            await self._settled


def _resolve(future: asyncio.Future[None] | None) -> None:
    if future is not None and not future.done():
        future.set_result(None)
