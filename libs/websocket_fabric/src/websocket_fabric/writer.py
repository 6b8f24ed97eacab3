"""What a connection writes and when: gathered for each read and each turn of the loop, held back for a slow reader.

Knows no handlers and no handshake; link.py does. What waits, and how much may, is outbox.py's.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from websocket_fabric.codes import ABNORMAL, TRY_AGAIN_LATER
from websocket_fabric.delivery import FLUSH_BYTES
from websocket_fabric.handshake import Request
from websocket_fabric.messages import Data
from websocket_fabric.outbox import Full, Outbox
from websocket_fabric.protocol import Protocol

if TYPE_CHECKING:
    from websocket_fabric.asyncio_server import WebSocketServer
    from websocket_fabric.connection import Connection

CONNECTING, OPEN, LEAVING, CLOSING, ENDING, CLOSED = range(6)
"""LEAVING: nothing more is taken from the client, handlers still answer. CLOSING: our closing frame is out, the
client's is awaited. ENDING: nothing more is said, the socket is emptied and closed."""
BY_APPLICATION, BY_INBOX, BY_OUTBOX, BY_OPENING = 1, 2, 4, 8
"""Why nothing is read."""
DELIVERS_NOT = BY_APPLICATION | BY_OUTBOX | BY_OPENING
TOO_SLOW = "You read slower than you are written to."
TOO_MUCH = "More was to be said at once than may wait."


class Writer(asyncio.BufferedProtocol):
    """The sending half of a connection."""

    __slots__ = (
        "_held",
        "_pending_bytes",
        "_phase",
        "_rest",
        "_scheduled",
        "_transport",
        "close_code",
        "close_reason",
        "groups",
        "outbox",
        "path",
        "pending",
        "protocol",
        "request",
        "rtt_s",
        "server",
        "state",
        "subprotocol",
    )

    def __init__(self, server: WebSocketServer) -> None:
        self.server = server
        self.protocol: Protocol | None = None
        self.request: Request | None = None
        """Until on_connect has returned, or always with `keep_requests`."""
        self.path = ""
        """What was asked for, query and all."""
        self.subprotocol = ""
        self.state: Any = None
        """Whatever the application keeps with it."""
        self.close_code = ABNORMAL
        """Why it ended, for on_close: the code of who said goodbye first, or 1006 where nobody did."""
        self.close_reason = ""
        self.rtt_s = 0.0
        """Between the last ping and its pong; 0 before the first."""
        self.groups: set[str] | None = None
        self.pending: list[bytes] | None = None
        """Frames that are written at the end of this read, or of this turn of the loop."""
        self.outbox: Outbox | None = None
        """What waits, for the end of the handshake at first; None while the transport takes everything."""
        self._transport: Any = None
        self._phase = CONNECTING
        self._rest: Iterator[Data] | None = None
        self._scheduled = False
        self._held = self._pending_bytes = 0

    @property
    def _me(self) -> Connection:
        return cast("Connection", self)

    def gather(self, frame: bytes) -> bool:
        """Write it with what else is written in this turn of the loop."""
        if self.pending is None:
            self.pending = []
        self.pending.append(frame)
        self._pending_bytes += len(frame)
        if self._pending_bytes >= FLUSH_BYTES:
            self.flush()
        elif self._rest is None and not self._scheduled:
            self._scheduled = True
            self.server.schedule(self._me)
        return True

    def flush_scheduled(self) -> None:
        """The turn of the loop ends."""
        self._scheduled = False
        self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        frames = self.pending
        if frames is None:
            return
        if frames and self._phase <= LEAVING:
            data = frames[0] if len(frames) == 1 else b"".join(frames)
            counts = self.server.counts
            counts.messages_out += len(frames)
            counts.bytes_out += len(data)
            # a handler may still hold the list
            frames.clear()
            self._transport.write(data)
        if self._rest is None:
            self.pending = None
        self._pending_bytes = 0

    def wait(self, outbox: Outbox, data: Data, frame: bytes = b"") -> bool:
        """Let it wait, as far as the limits allow."""
        if outbox.closing:
            return False
        protocol = cast("Protocol", self.protocol)
        if not protocol.in_order:
            data = frame or protocol.message(data)
        try:
            self.drop(outbox.put(data, self.server.limits))
        except Full:
            if self.server.limits.when_full == "drop_oldest":
                self.drop(1)
            else:
                self.drop(outbox.clear() + 1)
                self._me.close(TRY_AGAIN_LATER, TOO_MUCH if self._phase == CONNECTING else TOO_SLOW)
            return False
        return True

    def drop(self, messages: int) -> None:
        """Count what was thrown away."""
        if messages:
            self.server.counts.messages_dropped += messages
            self.server.metrics.dropped(self._me, messages)

    def make_outbox(self) -> Outbox:
        """Of the kind that this host waits for."""
        return Outbox(self.server.watch.tick)

    def begin_writing(self, response: bytes) -> None:
        """The answer to the handshake, and then what was sent while it was asked for."""
        outbox = cast("Outbox", self.outbox)
        outbox.paused, outbox.since = False, self.server.watch.tick
        self._transport.write(response + self._next_of(outbox))
        self._write_on(outbox)

    def pause_writing(self) -> None:
        """asyncio's: the transport holds enough."""
        if self.outbox is None:
            self.outbox = self.make_outbox()
        self.outbox.paused = True
        if self.server.limits.when_full == "block":
            self._me.hold(BY_OUTBOX)

    def resume_writing(self) -> None:
        """asyncio's: the client took some."""
        outbox = self.outbox
        if outbox is None:
            return
        outbox.paused, outbox.since = False, self.server.watch.tick
        # gathered before anything had to wait
        self.flush()
        self._write_on(outbox)

    def _write_on(self, outbox: Outbox) -> None:
        while not outbox.paused:
            data = self._next_of(outbox)
            if not data:
                break
            self._transport.write(data)
        if outbox.paused:
            return
        self.outbox = None
        outbox.emptied()
        self._me.release(BY_OUTBOX)
        if outbox.closing:
            self._me.say_last(outbox.closing)

    def _next_of(self, outbox: Outbox) -> bytes:
        pong, outbox.pong = outbox.pong, b""
        taken = outbox.take()
        counts = self.server.counts
        protocol = cast("Protocol", self.protocol)
        frames = [protocol.message(data) for data in taken] if protocol.in_order else cast("list[bytes]", taken)
        data = b"".join([pong, *frames])
        counts.messages_out += len(frames)
        counts.bytes_out += len(data)
        return data
