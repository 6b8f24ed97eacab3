"""One client of a reef as either process has it: a thread that waits, or a coroutine in a loop of its own thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine
from typing import Any, Protocol, TypeVar

from app.gateway.subscription import LoopSubscription
from app.gateway.telling import Telling
from app.gateway.threads import Threads
from app.items import Item
from app.listener import Listener
from app.services import Services, build
from reef.settings import Settings

T = TypeVar("T")


class Ear(Protocol):
    """What the tests use of both."""

    reef: Services
    listener: Listener

    def next(self, timeout_s: float) -> list[Item]:
        """What to tell next."""

    def close(self) -> None:
        """Leave nothing behind."""


class ThreadEar:
    """As the web process hears."""

    def __init__(self, settings: Settings) -> None:
        self.reef = build(settings)
        self.listener = self.reef.relay.listen()

    def next(self, timeout_s: float) -> list[Item]:
        """What to tell next."""
        return self.listener.next(timeout_s)

    def close(self) -> None:
        """Leave nothing behind."""
        self.listener.close()
        _close(self.reef)


class LoopEar:
    """As the gateway hears."""

    def __init__(self, settings: Settings) -> None:
        self.loop = LoopThread()
        self.reef, self.telling = self.loop.call(self._open(settings))
        self.listener = self.telling.listener

    async def _open(self, settings: Settings) -> tuple[Services, Telling]:
        self.threads = Threads()
        reef = build(settings, subscription=LoopSubscription(settings.redis_url))
        return reef, Telling(reef.relay, self.threads)

    def next(self, timeout_s: float) -> list[Item]:
        """What to tell next."""
        return self.loop.call(self.telling.next(timeout_s))

    def close(self) -> None:
        """Leave nothing behind."""

        async def end() -> None:
            self.telling.close()
            _close(self.reef)
            self.threads.close()

        self.loop.call(end())
        self.loop.close()


class LoopThread:
    """An event loop that runs in a thread."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop) -> None:
        self.loop = new_loop()
        self._thread = threading.Thread(target=self.loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, T]) -> T:
        """Its result."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(30)

    def close(self) -> None:
        """End it when what was cancelled has ended."""

        async def rest() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)

        self.call(rest())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


def _close(reef: Services) -> None:
    reef.close()
    reef.redis.close()
    reef.database.dispose()


EARS: dict[str, Callable[[Settings], Ear]] = {"thread": ThreadEar, "loop": LoopEar}
