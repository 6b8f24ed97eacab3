"""What blocks, off the loop: a few threads for the database and for what is read from Redis.

Chats are accepted in threads of their own, as many as the desk accepts at once, so that whoever resumes or stops does
not wait behind hundreds of chats. What waits for a thread is bounded by its asker: a client has one frame and one read
under way at a time.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from app.desk import ACCEPTING_MAX

READING_MAX = 8
"""With those that accept, the ticker and the board's: fewer than the connections of the database's pool."""
SWITCH_S = 0.0005
"""A thread that computes gives way to the loop after this; Python's own 5 ms would be five times a token's way."""
T = TypeVar("T")


class Threads:
    """Made in the loop."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._accepting = ThreadPoolExecutor(ACCEPTING_MAX, "gateway-accept")
        self._reading = ThreadPoolExecutor(READING_MAX, "gateway-read")
        sys.setswitchinterval(SWITCH_S)

    def accept(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call what may accept a chat."""
        return self._loop.run_in_executor(self._accepting, function, *arguments)

    def read(self, function: Callable[..., T], *arguments: Any) -> asyncio.Future[T]:
        """Call what reads, or writes a row."""
        return self._loop.run_in_executor(self._reading, function, *arguments)

    def close(self) -> None:
        """Take nothing more; what runs is not waited for."""
        for pool in (self._accepting, self._reading):
            pool.shutdown(wait=False, cancel_futures=True)
