"""The socket's side of a connection: asyncio's callbacks, what is written when, and the way from open to closed.

What the bytes mean is protocol.py's, who calls handlers is delivery.py's, what waits for a slow reader is outbox.py's;
the application's side is connection.py's. Keeps nothing that a silent connection does not need.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, cast

from websocket_fabric.codes import INTERNAL_ERROR
from websocket_fabric.delivery import TURN_MESSAGES
from websocket_fabric.handshake import Refused, Request, refusal
from websocket_fabric.messages import Data, Message
from websocket_fabric.opening import Opening
from websocket_fabric.outbox import WRITE_BUFFER_BYTES, Gone
from websocket_fabric.protocol import Protocol
from websocket_fabric.waiting import Waiting
from websocket_fabric.writer import (
    BY_INBOX,
    BY_OPENING,
    CLOSED,
    CLOSING,
    DELIVERS_NOT,
    ENDING,
    LEAVING,
    OPEN,
    Writer,
)

if TYPE_CHECKING:
    from websocket_fabric.asyncio_server import WebSocketServer

log = logging.getLogger(__name__)

PING_BYTES = 8
"""The time at which it was sent, so that nothing needs to be kept for the pong."""
PONG_AGE_MAX_S = 3600.0


class Link(Writer):
    """One client's socket. For the modules of this package; applications have Connection."""

    __slots__ = ("_busy", "_farewell", "_heard", "_inbox", "_opening", "_pinged", "due")

    def __init__(self, server: WebSocketServer, request: Request | None = None, first_bytes: bytes = b"") -> None:
        super().__init__(server)
        self.due = 0
        """watch.py's."""
        self._opening: Opening | None = Opening(self._me, request, first_bytes)
        self._inbox: Waiting | None = None
        self._busy = False
        self._heard = self._pinged = 0
        self._farewell = b""

    # --- asyncio's

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client is there."""
        self._transport = transport
        self._transport.set_write_buffer_limits(high=WRITE_BUFFER_BYTES)
        server = self.server
        if len(server.arriving) >= server.limits.connections_max:
            self._transport.abort()
            return
        server.arriving.add(self._me)
        server.watch.look(self._me, server.watch.handshake)
        if self._opening is not None:
            self._opening.begin()

    def get_buffer(self, sizehint: int) -> memoryview:
        """One buffer for all connections of a server, emptied before the next read."""
        return self.server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """The buffer was filled."""
        server = self.server
        data = bytes(server.buffer[:nbytes])
        if nbytes == len(server.buffer):
            # uvloop would go on with this client while there is more, eight megabytes at a time
            self._transport.pause_reading()
            server.soon(self._read_on)
        self._heard = server.watch.tick
        if self._opening is not None:
            self._opening.feed(data)
        elif self._phase < ENDING:
            self._receive(data)

    def _read_on(self) -> None:
        """The others had their turn."""
        if not self._held and self._phase != CLOSED:
            self._transport.resume_reading()

    def eof_received(self) -> bool:
        """The client will send nothing more, so the socket is closed."""
        return False

    def connection_lost(self, error: Exception | None) -> None:
        """The socket is closed."""
        self._phase = CLOSED
        server, opening = self.server, self._opening
        server.watch.forget(self._me)
        server.arriving.discard(self._me)
        self.pending = None
        if self.outbox is not None:
            self.drop(self.outbox.clear())
            self.outbox.lost()
            self.outbox = None
        self._drop_unhandled()
        if opening is None:
            server.departed(self._me)
            self._transport = None

    # --- what comes in

    def _receive(self, data: bytes) -> None:
        protocol, counts = self.protocol, self.server.counts
        assert protocol is not None  # noqa: S101 - for mypy
        counts.bytes_in += len(data)
        messages = protocol.feed(data)
        closing = b""
        if protocol.out or protocol.pong:
            closing = self._answer_control(protocol)
        if messages and self._phase == OPEN:
            counts.messages_in += len(messages)
            if self._busy or self._inbox or self._held & DELIVERS_NOT:
                self._set_aside(messages)
            else:
                self._handle(messages)
        if protocol.closed:
            self._end_of(protocol, closing)

    def _handle(self, messages: Collection[Data]) -> None:
        """Have as many handled as one turn of the loop may take; the others have theirs when everybody had one."""
        if len(messages) <= TURN_MESSAGES:
            self.server.delivery.deliver(self._me, messages)
            return
        rest = iter(messages)
        self.server.delivery.deliver(self._me, itertools.islice(rest, TURN_MESSAGES))
        if self._phase > LEAVING:
            self.drop(sum(1 for _ in rest))
            return
        self._set_aside(rest)
        if not self._busy:
            self.server.deliver_soon(self._me)

    def _set_aside(self, messages: Iterable[Data]) -> None:
        if self._inbox is None:
            self._inbox = Waiting(self.server.limits)
        self._inbox.put(messages)
        if self._inbox.is_full:
            self.hold(BY_INBOX)

    def _answer_control(self, protocol: Protocol) -> bytes:
        """Answer pings, before the messages that came with them; gives the closing frame, which comes after."""
        if protocol.pong:
            self._take_pong(protocol.pong)
            protocol.pong = b""
        frames = protocol.out[:]
        protocol.out.clear()
        closing = frames.pop() if frames and protocol.closed and self._phase < CLOSING else b""
        for frame in frames:
            self._control(frame)
        return closing

    def _end_of(self, protocol: Protocol, closing: bytes) -> None:
        if self._phase < CLOSING and not self._farewell:
            self.close_code, self.close_reason = protocol.close_code, protocol.close_reason
        if self._phase == CLOSING:
            self._phase = ENDING
            if self.outbox is None or not self.outbox.closing:
                self._transport.close()
        elif self._phase == OPEN and protocol.close_received:
            self.depart(closing)
        elif self._phase == OPEN or not protocol.close_received:
            self.part(closing or self._farewell)

    def _control(self, frame: bytes) -> None:
        if self._phase > LEAVING:
            return
        if self.outbox is None:
            self._transport.write(frame)
        else:
            self.outbox.pong = frame

    # --- handlers

    def begin(self, messages: Iterable[Data]) -> Iterator[Data]:
        """delivery.py begins with these; what it has not asked for when something is in the way is set aside."""
        self._rest = rest = iter(messages)
        if self.pending is None:
            self.pending = []
        return rest

    def end(self) -> None:
        """delivery.py is done with them, or a handler waits."""
        self._rest = None
        self.flush()

    def wait_for_worker(self) -> None:
        """A handler waits: nothing is handled before it is done."""
        self._busy = True
        if self._rest is not None and (rest := [*self._rest]):
            self._set_aside(rest)

    def next_waiting(self) -> Data | None:
        """The next message that may be handled now."""
        if not self._inbox or self._held & DELIVERS_NOT:
            return None
        data = self._inbox.take()
        if self._held & BY_INBOX and self._inbox.has_room:
            self.release(BY_INBOX)
        return data

    def _has_room(self) -> bool:
        return self._inbox is None or self._inbox.has_room

    def answered(self, answer: Data | Message | None, error: BaseException | None) -> None:
        """What a handler that waited gave."""
        try:
            if error is not None:
                self.failed(error)
            elif answer is not None:
                self._me.send(answer.data if isinstance(answer, Message) else answer)
        except Exception as unsendable:  # noqa: BLE001 - told to the client, and logged
            self.failed(unsendable)

    def worker_left(self) -> None:
        """The handler that waited is done, or was cancelled."""
        self._busy = False
        if self._opening is not None:
            self._me.abort()
        else:
            self.deliver_waiting()

    def deliver_waiting(self) -> None:
        """Have handled what was set aside, where nothing is in the way."""
        if self._busy or self._held & DELIVERS_NOT:
            return
        if self._inbox:
            messages, self._inbox = self._inbox, None
            self._handle(messages)
            if self._has_room():
                self.release(BY_INBOX)
        if self._phase == LEAVING and not self._busy and not self._inbox:
            self.part(self._farewell)

    def failed(self, error: BaseException) -> None:
        """A handler failed: this client is told so, others are not concerned."""
        if isinstance(error, Gone) and self._phase > LEAVING:
            return
        self.server.counts.handler_errors += 1
        log.error("A handler failed; its connection is closed with %d.", INTERNAL_ERROR, exc_info=error)
        self._me.close(INTERNAL_ERROR, "The server failed to handle a message.")

    # --- reading or not

    def hold(self, why: int) -> None:
        """Read nothing more, for this reason; where handlers must wait, too, none is called."""
        if self._phase > LEAVING:
            return
        if not self._held:
            self._transport.pause_reading()
        self._held |= why
        if why & DELIVERS_NOT and self._rest is not None:
            self._set_aside(self._rest)

    def release(self, why: int) -> None:
        """Go on, unless there is another reason not to."""
        before, self._held = self._held, self._held & ~why
        if self._phase == CLOSED or self._held == before:
            return
        if before & DELIVERS_NOT and not self._held & DELIVERS_NOT and self._inbox:
            self.server.deliver_soon(self._me)
        if not self._held:
            self._transport.resume_reading()

    def _drop_unhandled(self) -> None:
        unhandled = len(self._inbox or ()) + sum(1 for _ in self._rest or ())
        self._inbox = None
        self.drop(unhandled)

    # --- from open to closed

    def open(self, response: bytes, rest: bytes) -> None:
        """The handshake is done; `rest` came after it already."""
        self._opening = None
        self.server.opened(self._me)
        if self._phase == CLOSED:
            # it left while on_connect was asked
            self.server.departed(self._me)
            return
        # on_connect may have said goodbye at once
        self._phase = CLOSING if cast("Protocol", self.protocol).close_sent else OPEN
        self.begin_writing(response)
        watch = self.server.watch
        watch.look(self._me, watch.idle_ticks() if self._phase == OPEN else watch.close)
        self.release(BY_OPENING)
        if rest:
            self._receive(rest)

    def refuse(self, refused: Refused) -> None:
        """Answer the handshake with an HTTP status."""
        self.server.refused(self._me, refused.status)
        if self._phase == CLOSED:
            self.server.arriving.discard(self._me)
            return
        self._opening, self.outbox = None, None
        self._phase = ENDING
        self.server.watch.look(self._me, self.server.watch.close)
        self.release(BY_OPENING)
        self.say_last(refusal(refused))

    def depart(self, frame: bytes) -> None:
        """Say goodbye with this frame once the handlers of what came before are done."""
        if self._busy or self._inbox:
            self._phase, self._farewell = LEAVING, frame
            self.server.watch.look(self._me, self.server.watch.close)
        else:
            self.part(frame)

    def part(self, frame: bytes) -> None:
        """Say goodbye after everything that was sent."""
        self.flush()
        self._drop_unhandled()
        self._phase = ENDING if cast("Protocol", self.protocol).closed else CLOSING
        self.server.watch.look(self._me, self.server.watch.close)
        self.release(self._held)
        if self.outbox is not None and len(self.outbox):
            self.outbox.closing = frame
        else:
            self.say_last(frame)

    def say_last(self, data: bytes) -> None:
        """Nothing follows this."""
        self._transport.write(data)
        if self._phase != ENDING:
            return
        if self._transport.can_write_eof():
            # what the client still sends is read and thrown away: closed at once, the kernel would answer it with a
            # reset, and the client might never read why
            self._transport.write_eof()
        else:
            self._transport.close()

    def look(self) -> int:
        """watch.py's: see to what is overdue; gives the ticks until the next look, 0 where this was arranged."""
        watch = self.server.watch
        if self._opening is not None:
            if self._opening.asked:
                return watch.handshake
            self.refuse(Refused(408, f"A request must be here after {self.server.limits.handshake_timeout_s:g} s."))
        elif self._phase == LEAVING:
            self.part(self._farewell)
        elif self._phase > LEAVING or self._is_stuck():
            self._me.abort()
        else:
            return self._listen()
        return 0

    def _is_stuck(self) -> bool:
        watch = self.server.watch
        return self.outbox is not None and watch.tick - self.outbox.since >= watch.idle + watch.ping

    def _listen(self) -> int:
        watch = self.server.watch
        silent = watch.tick - self._heard
        if self._held:
            # it is we who do not listen
            return watch.idle
        if silent < watch.idle:
            return watch.idle - silent
        if self._pinged <= self._heard:
            self._me.ping()
            return watch.ping
        asked = watch.tick - self._pinged
        if asked < watch.ping:
            return watch.ping - asked
        self.close_reason = f"silent for {self.server.limits.ping_timeout_s:g} s after a ping"
        self._me.abort()
        return 0

    def ping_now(self, protocol: Protocol) -> None:
        """Ask it for a sign of life."""
        self._pinged = self.server.watch.tick
        self._control(protocol.ping(time.monotonic_ns().to_bytes(PING_BYTES, "big")))

    def _take_pong(self, payload: bytes) -> None:
        rtt_s = (time.monotonic_ns() - int.from_bytes(payload, "big")) / 1e9
        # anybody may send a pong that nobody asked for
        if len(payload) == PING_BYTES and 0 <= rtt_s < PONG_AGE_MAX_S:
            self.rtt_s = rtt_s
            self.server.metrics.rtt(self._me, rtt_s)
