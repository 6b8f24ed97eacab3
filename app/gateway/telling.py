"""An async view of a listener, for whoever tells one client in a coroutine of its own (gRPC)."""

from __future__ import annotations

import asyncio
import functools
import threading
import time

from app.gateway.threads import Threads
from app.items import Item
from app.relay import Relay


class Telling:
    """One client. Made in the loop; one coroutine calls `next`.

    `listener` takes what the client asks for (`follow`, `watch`, ...): none of it blocks.
    """

    def __init__(self, relay: Relay, threads: Threads) -> None:
        self._threads = threads
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._woken = asyncio.Event()
        self.listener = relay.listen(self._wake)

    async def next(self, timeout_s: float) -> list[Item]:
        """What to tell next, in order; empty when there was nothing for that long. Raises Closed and Hopeless."""
        deadline = time.monotonic() + timeout_s
        while True:
            self._woken.clear()
            items = self.listener.collect(may_read=False)
            if items is None:
                items = await self._threads.read(functools.partial(self.listener.collect, may_read=True))
            now = time.monotonic()
            if items or now >= deadline:
                return items or []
            try:
                async with asyncio.timeout(min(deadline, self.listener.retry_at()) - now):
                    await self._woken.wait()
            except TimeoutError:
                continue

    def close(self) -> None:
        """The client is gone."""
        self.listener.close()

    def _wake(self) -> None:
        if threading.get_ident() == self._loop_thread:
            self._woken.set()
        else:
            self._loop.call_soon_threadsafe(self._woken.set)
