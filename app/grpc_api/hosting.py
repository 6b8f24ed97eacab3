"""What the gRPC services share: the parts of the process, its threads, and one listener for each streamed call."""

from __future__ import annotations

import asyncio
import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from app.gateway.telling import Telling
from app.gateway.threads import Threads
from app.items import Item
from app.listener import Closed, Listener
from app.services import Services
from app.session import ClientSession
from app.sse import take_place
from reef.contracts.frames import ChatFrame, ResumeFrame

log = logging.getLogger(__name__)

T = TypeVar("T")


class Lane:
    """What blocks for one call, one after another. Who hangs up is not waited for, and what was begun is ended."""

    def __init__(self) -> None:
        self._latest: asyncio.Future[Any] | None = None

    async def run(self, future: asyncio.Future[T]) -> T:
        """Wait for something that a thread does. Raises what it raises."""
        self._latest = future
        return await asyncio.shield(future)

    def end(self, function: Callable[[], object]) -> None:
        """Call this when the latest is done: until then its thread may make something of which to let go."""
        latest = self._latest
        if latest is None or latest.done():
            function()
            return

        def late(done: asyncio.Future[Any]) -> None:
            if not done.cancelled():
                done.exception()  # its client is gone: nobody else asks for it
            function()

        latest.add_done_callback(late)


class Hearing:
    """One call that hears runs or an upload. Made and used in the loop; what blocks is done in threads."""

    def __init__(self, services: Services, threads: Threads) -> None:
        """Raises Refusal where there are too many."""
        take_place(services.counts)
        self._counts, self._threads = services.counts, threads
        self._telling = Telling(services.relay, threads)
        self._session = ClientSession(services.desk, services.ledger, self.listener)
        self._lane = Lane()

    @property
    def listener(self) -> Listener:
        """Takes what this call follows."""
        return self._telling.listener

    async def say(self, frame: ChatFrame) -> None:
        """Accept a chat and follow its run. Raises as Desk.say.

        Who goes meanwhile changes nothing: what is begun is accepted.
        """
        await self._lane.run(self._threads.accept(self._session.act, frame))

    async def resume(self, frame: ResumeFrame) -> None:
        """Follow a run from where the client was. Raises UnknownJob."""
        await self._lane.run(self._threads.read(self._session.act, frame))

    async def accept(self, function: Callable[..., T], *arguments: Any) -> T:
        """Call this where chats are accepted. Raises what it raises."""
        return await self._lane.run(self._threads.accept(function, *arguments))

    async def next(self, timeout_s: float) -> list[Item]:
        """What to tell next; empty when there was nothing for that long. Raises Closed."""
        return await self._telling.next(timeout_s)

    def close(self) -> None:
        """The call is over; what it followed goes on."""
        self._counts.stream(-1)
        self._lane.end(self._telling.close)


class Host:
    """The parts that every service needs. Lives in the loop."""

    def __init__(self, services: Services, threads: Threads) -> None:
        self.services = services
        self._threads = threads
        self._hearings: set[Hearing] = set()
        self.stopping = False

    def read(self, function: Callable[..., T], *arguments: Any, **named: Any) -> asyncio.Future[T]:
        """Call what blocks in a thread. Raises what it raises."""
        return self._threads.read(functools.partial(function, *arguments, **named))

    def leave(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call what blocks in a thread, and wait for nothing."""
        try:
            future = self._threads.read(function, *arguments)
        except RuntimeError:
            return  # the threads are gone: the process is ending
        future.add_done_callback(_look_at)

    @contextmanager
    def hear(self) -> Iterator[Hearing]:
        """A listener for this call. Raises Refusal and Closed."""
        if self.stopping:
            raise Closed
        hearing = Hearing(self.services, self._threads)
        self._hearings.add(hearing)
        try:
            yield hearing
        finally:
            self._hearings.discard(hearing)
            hearing.close()

    def stop(self) -> None:
        """Tell every stream to come again."""
        self.stopping = True
        for hearing in self._hearings:
            hearing.listener.close()


def _look_at(done: asyncio.Future[Any]) -> None:
    if not done.cancelled() and done.exception() is not None:
        log.error("the end of a call failed", exc_info=done.exception())
