"""A client that stays connected: back-off, a resume token, a bounded queue while it is away, states one can watch.

Knows no frames and no handshake: client.py makes each connection. What arrives is kept in one inbox that outlives
them; so a message that came whole is received, whatever happened to the connection that brought it.

**Resuming.** `token` is the program's: it says how far it got, and is set by whoever receives. On each connection
`on_resume(token)` makes the first message (None for none), before anything that waited to be sent. It is called only
when everything that arrived earlier has been received and the receiver has come back for more: the token is then up
to date by construction, and a server that sends what follows it sends each message exactly once. It is a message, not
a header or a part of the address, because those are written to the access logs of every proxy, and because a browser
cannot set the first and a connection cannot change the second.

What is sent is another matter: a message that was handed to a connection which then broke may or may not have
arrived. A program that must know numbers its own messages and says them again.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import re
import ssl
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Literal, Self, get_args

from websocket_fabric.backoff import Attempts, Backoff
from websocket_fabric.client import Connector
from websocket_fabric.client_connection import ClientConnection, ConnectionClosed, OutboxFull
from websocket_fabric.codes import BAD_TEXT, NORMAL, POLICY, TOO_BIG, UNSUPPORTED
from websocket_fabric.handshake import Rejected
from websocket_fabric.inbox import Inbox
from websocket_fabric.messages import Data

FINAL_CODES = frozenset([NORMAL, UNSUPPORTED, BAD_TEXT, POLICY, TOO_BIG, 1010])
"""Closed like this, trying again would end the same way (or, 1000, the server has nothing more to say)."""
TEMPORARY_STATUSES = frozenset([408, 425, 429, 500, 502, 503, 504])
WhenAway = Literal["refuse", "drop_oldest"]
"""What `send` does when the queue is full: raise OutboxFull, or throw the oldest waiting message away and count it."""

_hint = re.compile(r"retry[- ]?after\D{0,3}(\d{1,6}(?:\.\d{1,3})?)", re.IGNORECASE)


class State(StrEnum):
    """Where a client is."""

    CONNECTING = "connecting"
    OPEN = "open"
    WAITING = "waiting"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True)
class Change:
    """What `on_state` is told."""

    state: State
    attempt: int
    """Failures in a row so far."""
    delay_s: float
    """While waiting: until the next attempt."""
    why: str
    """The last failure; empty where there was none."""


class GaveUp(ConnectionError):
    """The bounds of the back-off were reached."""


class ReconnectingClient:
    """One lasting conversation with a server. `async with` it, iterate over it, `send`, `close`."""

    def __init__(
        self,
        connector: Connector,
        *,
        token: Any = None,
        on_resume: Callable[[Any], Data | None] | None = None,
        on_state: Callable[[Change], None] | None = None,
        backoff: Backoff | None = None,
        when_away: WhenAway = "refuse",
        final_codes: frozenset[int] = FINAL_CODES,
    ) -> None:
        if when_away not in get_args(WhenAway):
            raise ValueError(f"when_away must be one of {', '.join(get_args(WhenAway))}, not {when_away!r}.")
        self.token = token
        """How far the program got; its own business."""
        self.state = State.CLOSED
        self.dropped = 0
        """Messages that were thrown away because the queue was full (`drop_oldest`)."""
        self.connections = 0
        """How many were opened."""
        self._connector = connector
        self._on_resume = on_resume
        self._on_state = on_state
        self._backoff = backoff or Backoff()
        self._attempts = Attempts(self._backoff)
        self._when_away = when_away
        self._final_codes = final_codes
        self._inbox = Inbox(connector.limits)
        self._queue: deque[Data] = deque()
        self._queued_bytes = 0
        self._connection: ClientConnection | None = None
        self._open, self._away = asyncio.Event(), asyncio.Event()
        self._away.set()
        self._closing = False
        self._keeper: asyncio.Task[ConnectionClosed] | None = None

    # --- what the program calls

    async def __aenter__(self) -> Self:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Data:
        try:
            return await self._inbox.get()
        except ConnectionClosed as closed:
            if closed.code == NORMAL:
                raise StopAsyncIteration from None
            raise

    def start(self) -> None:
        """Begin to connect, and return at once; `wait_open` waits for it."""
        if self._keeper is None:
            self._keeper = asyncio.create_task(self._keep())
            self._keeper.add_done_callback(self._ended)

    async def wait_open(self) -> None:
        """Wait until it is connected and resumed. Raises what `receive` would where it ended instead."""
        if self._keeper is None:
            raise RuntimeError("The client was not started; use `async with` or start().")
        await self._open.wait()
        if self._inbox.error is not None:
            raise self._inbox.error

    async def receive(self) -> Data:
        """The next message, whichever connection brought it. Set `token` before asking for the one after it.

        At the end raises ConnectionClosed, Rejected or GaveUp, once everything that came has been received.
        """
        return await self._inbox.get()

    def send(self, data: Data) -> None:
        """Send a message, or keep it until there is a connection. Never blocks. Raises OutboxFull, ConnectionClosed."""
        if self._inbox.error is not None:
            raise self._inbox.error
        if self._connection is not None and not self._connection.closing:
            self._connection.send(data)
        else:
            self._keep_for_later(data)

    async def drain(self) -> None:
        """Wait until there is a connection, and it has taken most of what was sent."""
        while True:
            await self.wait_open()
            connection = self._connection
            if connection is not None:
                with contextlib.suppress(ConnectionClosed):
                    return await connection.drain()
            # until the keeper has seen that it is lost; that it is closed is known earlier, and asking again for a
            # connection would give the same one at once, for ever
            await self._away.wait()

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close for good. What waits for a connection is dropped."""
        if self._keeper is None or self._keeper.done():
            return
        self._closing = True
        try:
            if self._connection is not None:
                await self._connection.close(code, reason)
        finally:
            self._keeper.cancel()
            await asyncio.wait([self._keeper])

    # --- the task that keeps it connected

    async def _keep(self) -> ConnectionClosed:
        while True:
            closed = await self._once()
            if self._closing or closed.code in self._final_codes:
                return closed
            await self._wait(str(closed), closed, _hint_s(closed.reason))

    def _ended(self, keeper: asyncio.Task[ConnectionClosed]) -> None:
        """Whatever ended it (an error of on_resume too): whoever receives or sends hears of it."""
        if keeper.cancelled():
            error: BaseException = ConnectionClosed(NORMAL, "closed here")
        else:
            error = keeper.exception() or keeper.result()
        self._inbox.end(error)
        self._open.set()
        self._become(State.CLOSED, why=str(error))

    async def _once(self) -> ConnectionClosed:
        """One connection, from its beginning to its end."""
        connection = await self._dial()
        self.connections += 1
        opened_s = asyncio.get_running_loop().time()
        try:
            if await self._greet(connection):
                self._become(State.OPEN)
            return await connection.wait_closed()
        finally:
            self._connection = None
            self._open.clear()
            self._away.set()
            self._attempts.lost(asyncio.get_running_loop().time() - opened_s)
            connection.abort("the client was closed")

    async def _dial(self) -> ClientConnection:
        while True:
            self._become(State.CONNECTING)
            try:
                return await self._connector.open(self._inbox)
            except Rejected as failed:
                if failed.status not in TEMPORARY_STATUSES:
                    raise
                await self._wait(str(failed), failed, _retry_after_s(failed.headers.get("retry-after", "")))
            except ssl.SSLCertVerificationError:
                raise
            except OSError as failed:
                await self._wait(str(failed) or repr(failed), failed, None)

    async def _greet(self, connection: ClientConnection) -> bool:
        """Resume, and send what waited. False where the connection was lost before that."""
        if self._on_resume is not None:
            settled = asyncio.ensure_future(self._inbox.settled())
            either: list[asyncio.Future[Any]] = [settled, connection.ended]
            try:
                await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
            finally:
                settled.cancel()
            if connection.closing:
                return False
            first = self._on_resume(self.token)
            connection.send_all([first] if first is not None else [])
        connection.send_all(self._queue)
        self._queue.clear()
        self._queued_bytes = 0
        self._connection = connection
        self._away.clear()
        self._open.set()
        return True

    async def _wait(self, why: str, cause: BaseException, hint_s: float | None) -> None:
        now_s = asyncio.get_running_loop().time()
        delay_s = self._attempts.failed(now_s, hint_s)
        if delay_s is None:
            raise GaveUp(
                f"Gave up on {self._connector.url} after {self._attempts.failures} failures in "
                f"{now_s - self._attempts.first_failed_s:.1f} s; the last: {why}. See that the server runs and can be "
                "reached from here, then start a new client."
            ) from cause
        self._become(State.WAITING, delay_s, why)
        await asyncio.sleep(delay_s)

    def _become(self, state: State, delay_s: float = 0.0, why: str = "") -> None:
        self.state = state
        if self._on_state is not None:
            # by way of the loop: an error of the hook is the loop's to report, and never ends the client
            change = Change(state, self._attempts.failures, delay_s, why)
            asyncio.get_running_loop().call_soon(self._on_state, change)

    # --- what waits while there is no connection

    def _keep_for_later(self, data: Data) -> None:
        limits, size = self._connector.limits, _size(data)
        if size > limits.outbox_bytes_max:
            # before anything is thrown away for it
            raise OutboxFull(
                f"A message of {size} bytes cannot wait for a connection to {self._connector.url}; the limit for all "
                f"that wait is {limits.outbox_bytes_max}. Send it in parts, or raise outbox_bytes_max."
            )
        while self._queue and self._is_over(size) and self._when_away == "drop_oldest":
            self._queued_bytes -= _size(self._queue.popleft())
            self.dropped += 1
        if self._is_over(size):
            raise OutboxFull(
                f"There is no connection to {self._connector.url}, and {len(self._queue)} messages with "
                f"{self._queued_bytes} bytes wait for one; the limits are {limits.outbox_messages_max} and "
                f"{limits.outbox_bytes_max}. Await drain() before sending more."
            )
        self._queue.append(data)
        self._queued_bytes += size

    def _is_over(self, size: int) -> bool:
        limits = self._connector.limits
        return len(self._queue) >= limits.outbox_messages_max or self._queued_bytes + size > limits.outbox_bytes_max


def _size(data: Data) -> int:
    # text is counted by its length in UTF-8, which its encoding will have
    return len(data.encode()) if isinstance(data, str) else len(data)


def _hint_s(reason: str) -> float | None:
    """What a closing server asks for: a reason like `retry after 5` is meant in seconds."""
    found = _hint.search(reason)
    return float(found[1]) if found else None


def _retry_after_s(value: str) -> float | None:
    """A Retry-After header: seconds, or a date."""
    if value.isdecimal():
        return float(value[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except ValueError:
        return None
