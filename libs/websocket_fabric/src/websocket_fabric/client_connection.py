"""The client's end of one connection, on asyncio: bytes to its protocol, messages to its inbox, sends to the socket.

Knows no address: client.py makes it.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from typing import Any, Self

from websocket_fabric.codes import ABNORMAL, GOING_AWAY, NORMAL
from websocket_fabric.handshake import Asked, Rejected, Response, ResponseReader, check_response
from websocket_fabric.heads import BadHead
from websocket_fabric.inbox import Inbox
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data
from websocket_fabric.protocol import Protocol

WRITE_BUFFER_BYTES = 64 * 1024
"""With more than this waiting in the transport `drain` waits."""
PINGS_MAX = 64
"""Pings of the program that wait for their pong."""
PONG_LOOKS = 5
"""How often a pong is looked for within its time: a loop that was held up did not listen, and its pause is one look."""


class ConnectionClosed(Exception):
    """The connection is closed; `code` and `reason` say how (1006: it broke)."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(f"closed with {code}: {reason}" if reason else f"closed with {code}")
        self.code, self.reason = code, reason


class OutboxFull(Exception):
    """More waits to be sent than the limit allows; nothing of this message was sent."""


class ClientConnection(asyncio.Protocol):
    """An open connection. One task receives; any may send."""

    def __init__(self, asked: Asked, url: str, limits: Limits, inbox: Inbox | None) -> None:
        self._loop = asyncio.get_running_loop()
        self._asked = asked
        self._url = url
        self._limits = limits
        self._owns_inbox = inbox is None
        self._inbox = Inbox(self._limits) if inbox is None else inbox
        self._transport: Any = None
        self._protocol: Protocol | None = None
        self._reader = ResponseReader(self._limits)
        self._pending: list[bytes] = []
        self._pending_bytes = 0
        self._paused = False
        self._writable = asyncio.Event()
        self._heard_s = self._loop.time()
        self._pinged_s = 0.0
        self._looks_left = 0
        self._timer: asyncio.TimerHandle | None = None
        self._pings: dict[bytes, asyncio.Future[float]] = {}
        self._why = ""
        self.closing = False
        """Nothing more can be sent."""
        self.subprotocol = ""
        """What the server chose of those that were offered."""
        self.opened: asyncio.Future[None] = self._loop.create_future()
        self.ended: asyncio.Future[ConnectionClosed] = self._loop.create_future()

    # --- what the program calls

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Data:
        try:
            return await self._inbox.get()
        except ConnectionClosed as closed:
            if closed.code in {NORMAL, GOING_AWAY}:
                raise StopAsyncIteration from None
            raise

    async def receive(self) -> Data:
        """The next message. Raises ConnectionClosed once all that came before has been received."""
        return await self._inbox.get()

    def send(self, data: Data) -> None:
        """Send a message. Never blocks; `await drain()` after many. Raises ConnectionClosed and OutboxFull."""
        if self.closing or self._protocol is None:
            raise ConnectionClosed(*self._how())
        waiting = self._pending_bytes + self._transport.get_write_buffer_size()
        if waiting > self._limits.outbox_bytes_max:
            raise OutboxFull(
                f"{waiting} bytes wait to be sent to {self._url}, the limit is "
                f"{self._limits.outbox_bytes_max}. Await drain() between messages."
            )
        self._write(self._protocol.message(data))

    async def drain(self) -> None:
        """Wait until the server has taken most of what was sent."""
        self._flush()
        await self._writable.wait()
        if self.closing:
            raise ConnectionClosed(*self._how())

    async def ping(self) -> float:
        """How many seconds a ping and its pong took. Raises ConnectionClosed."""
        if self.closing or self._protocol is None:
            raise ConnectionClosed(*self._how())
        if len(self._pings) >= PINGS_MAX:
            raise OutboxFull(f"{PINGS_MAX} pings wait for their pong; await them before the next.")
        payload, begun_s = os.urandom(4), self._loop.time()
        answered: asyncio.Future[float] = self._loop.create_future()
        self._pings[payload] = answered
        self._write(self._protocol.ping(payload))
        try:
            return await answered - begun_s
        finally:
            self._pings.pop(payload, None)

    async def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Close, and wait until it is closed; what arrives meanwhile is dropped. Harmless when closed already."""
        if self._protocol is not None and not self.closing:
            self.closing = True
            self._write(self._protocol.close(code, reason))
            self._resume()
            self._set_timer(self._limits.close_timeout_s, self.abort)
        await self.wait_closed()

    async def wait_closed(self) -> ConnectionClosed:
        """Wait until the connection is gone; gives how."""
        return await asyncio.shield(self.ended)

    @property
    def has_opened(self) -> bool:
        """Whether the handshake came about, whatever came after it."""
        return self._protocol is not None

    def abort(self, why: str = "the other end did not close in time") -> None:
        """Cut it off, without a closing handshake."""
        self._why = self._why or why
        self.closing = True
        if not self.ended.done():
            self._transport.abort()

    def send_all(self, messages: Sequence[Data]) -> None:
        """Send messages that were counted elsewhere, whatever waits already."""
        if self._protocol is not None and not self.closing:
            for data in messages:
                self._write(self._protocol.message(data))

    # --- asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        self._transport.write(self._asked.request)
        self._writable.set()

    def pause_writing(self) -> None:
        """asyncio's."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """asyncio's."""
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        self._heard_s = self._loop.time()
        if self._protocol is None:
            data = self._shake(data)
        if self._protocol is not None:
            self._take(self._protocol, data)

    def connection_lost(self, exc: Exception | None) -> None:
        """asyncio's: the end, however it came about."""
        self.closing = True
        if exc is not None:
            self._why = self._why or f"the connection broke: {exc}"
        if self._timer is not None:
            self._timer.cancel()
        closed = ConnectionClosed(*self._how())
        self._writable.set()
        for answered in self._pings.values():
            if not answered.done():
                answered.set_exception(ConnectionClosed(*self._how()))
        if not self.opened.done():
            self._unanswered()
        self.ended.set_result(closed)
        if self._owns_inbox:
            self._inbox.end(closed)

    # --- within

    def _how(self) -> tuple[int, str]:
        """Code and reason of the end."""
        if self._protocol is None or not self._protocol.closed:
            return ABNORMAL, self._why or "the connection broke without a closing frame"
        return self._protocol.close_code, self._protocol.close_reason

    def _shake(self, data: bytes) -> bytes:
        """Read the answer to the request; gives the bytes after it."""
        try:
            read = self._reader.feed(data)
            if read is None:
                return b""
            self._agree(read[0])
        except (BadHead, Rejected) as refused:
            self._refuse(refused)
            return b""
        return read[1]

    def _agree(self, response: Response) -> None:
        agreed = check_response(self._asked, response)
        self.subprotocol = agreed.subprotocol
        self._protocol = Protocol("client", self._limits, deflate=agreed.deflate)
        self._inbox.on_room = self._resume
        self._set_timer(self._limits.idle_timeout_s, self._beat)
        if not self.opened.done():
            self.opened.set_result(None)

    def _refuse(self, refused: BadHead | Rejected) -> None:
        if isinstance(refused, BadHead):
            error: Exception = ConnectionError(f"{self._url} is no WebSocket server: {refused.reason}")
        else:
            error = refused
        if not self.opened.done():
            self.opened.set_exception(error)
        self._transport.abort()

    def _unanswered(self) -> None:
        """The connection ended before the answer was whole."""
        try:
            self._agree(self._reader.end())
        except (BadHead, Rejected) as refused:
            self._refuse(refused)

    def _take(self, protocol: Protocol, data: bytes) -> None:
        messages = protocol.feed(data)
        if messages and not self.closing:
            self._inbox.put(messages)
        for frame in protocol.out:
            self._write(frame)
        protocol.out.clear()
        if protocol.pong:
            self._ponged(protocol.pong)
            protocol.pong = b""
        if protocol.closed:
            # the server closes the connection first, so that no port of ours is left in TIME_WAIT
            self.closing = True
            self._set_timer(self._limits.close_timeout_s, self.abort)
        elif self._inbox.full and not self.closing and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def _ponged(self, payload: bytes) -> None:
        """A pong answers its ping, and those before it: only the newest needs an answer (RFC 6455, section 5.5.3)."""
        if payload not in self._pings:
            return
        for sent in [*self._pings]:
            answered = self._pings.pop(sent)
            if not answered.done():
                answered.set_result(self._loop.time())
            if sent == payload:
                return

    def _resume(self) -> None:
        if self._paused:
            self._paused = False
            self._heard_s = self._loop.time()
            self._transport.resume_reading()

    def _write(self, frame: bytes) -> None:
        """What is written in one turn of the loop leaves in one piece."""
        if not self._pending:
            self._loop.call_soon(self._flush)
        self._pending.append(frame)
        self._pending_bytes += len(frame)

    def _flush(self) -> None:
        if self._pending and not self._transport.is_closing():
            self._transport.write(b"".join(self._pending))
        self._pending.clear()
        self._pending_bytes = 0

    def _set_timer(self, delay_s: float, then: Callable[[], None]) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_later(delay_s, then)

    def _beat(self) -> None:
        """Ping a silent server, cut off one that stays silent. A full inbox is not read, so it says nothing."""
        now_s, limits = self._loop.time(), self._limits
        if self._paused or self._heard_s > self._pinged_s:
            self._looks_left = 0
        idle_left_s = self._heard_s + limits.idle_timeout_s - now_s
        if self._paused:
            self._set_timer(limits.idle_timeout_s, self._beat)
        elif self._looks_left == 1:
            self.abort(f"no sign of life for {now_s - self._heard_s:.1f} s, not even a pong")
        elif self._looks_left:
            self._looks_left -= 1
            self._set_timer(limits.ping_timeout_s / PONG_LOOKS, self._beat)
        elif idle_left_s > 0:
            self._set_timer(idle_left_s, self._beat)
        elif self._protocol is not None:
            self._pinged_s, self._looks_left = now_s, PONG_LOOKS
            self._write(self._protocol.ping())
            self._set_timer(limits.ping_timeout_s / PONG_LOOKS, self._beat)
