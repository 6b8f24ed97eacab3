"""One client of the gevent host: its socket, read by a greenlet of its own, written by whoever has something to write.

GreenTransport is to a connection what asyncio's transports are, so that everything above it is the asyncio host's own
code: the handshake, the queues and what happens when they are full, closing, the timeouts. Imports gevent and patches
nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

from gevent import get_hub, getcurrent, sleep
from gevent.event import AsyncResult, Event

from websocket_fabric.connection import Connection
from websocket_fabric.handshake import Request
from websocket_fabric.messages import Data
from websocket_fabric.outbox import Gone, Outbox
from websocket_fabric.writer import CONNECTING, LEAVING

if TYPE_CHECKING:
    from websocket_fabric.gevent_server import GeventServer

WRITABLE = 2
"""libev's name for it."""


class GreenTransport:
    """A socket. Writes never block: what the kernel does not take waits here, and the hub writes it when it can."""

    __slots__ = (
        "_again",
        "_alarm",
        "_closes",
        "_connection",
        "_dead",
        "_ends",
        "_fd",
        "_full",
        "_high",
        "_paused",
        "_sock",
        "_waiting",
        "_watcher",
        "greenlet",
    )

    def __init__(self, sock: Any, connection: GeventConnection) -> None:
        self._sock = sock
        self._fd: int = sock.fileno()
        self._connection = connection
        self.greenlet: Any = None
        """The one that reads."""
        self._high = 0
        self._waiting: list[bytes | memoryview] = []
        self._watcher: Any = None
        self._alarm: Any = None
        self._again = self._closes = self._dead = self._ends = self._full = self._paused = False

    # --- the greenlet of this connection

    def run(self) -> None:
        """Read until the end. Handlers run in here: while one waits, nothing more is read from this client."""
        connection, buffer = self._connection, self._connection.server.buffer
        self.greenlet = getcurrent()
        error: OSError | None = None
        unshared = 0
        try:
            connection.connection_made(self)  # type: ignore[arg-type]
            while not self._dead:
                self._again = False
                connection.deliver_waiting()
                if self._again:
                    sleep(0)
                    continue
                if self._paused:
                    self._sleep()
                    continue
                # one buffer for all: nothing else runs between the reading and the copy that buffer_updated takes
                read = self._sock.recv_into(buffer)
                if not read:
                    break
                connection.buffer_updated(read)
                unshared += read
                if self._has_more() or unshared >= len(buffer):
                    # reading waits for nothing while there is more: who floods would be the only one served
                    unshared = 0
                    sleep(0)
        except OSError as lost:
            error = lost
        finally:
            self.abort()
            self._sock.close()
            connection.connection_lost(error)

    def _has_more(self) -> bool:
        return self._again

    def _sleep(self) -> None:
        self._alarm = Event()
        self._alarm.wait()
        self._alarm = None

    def wake(self) -> None:
        """There is something to see to before the next read."""
        self._again = True
        if self._alarm is not None:
            self._alarm.set()

    # --- what asyncio's transports do

    def pause_reading(self) -> None:
        """Read nothing more."""
        self._paused = True

    def resume_reading(self) -> None:
        """Go on reading."""
        self._paused = False
        self.wake()

    def set_write_buffer_limits(self, high: int) -> None:
        """More waiting bytes than this are told to the connection."""
        self._high = high

    def get_extra_info(self, name: str) -> Any:
        """The other end's address."""
        with contextlib.suppress(OSError):
            return self._sock.getpeername() if name == "peername" else None
        return None

    def write(self, data: bytes) -> None:
        """Write, or let wait what cannot be written at once."""
        if self._dead or not data:
            return
        if self._waiting:
            self._waiting.append(data)
        else:
            sent = self._try(data)
            if sent == len(data) or self._dead:
                return
            self._waiting.append(memoryview(data)[sent:])
            self._watcher = get_hub().loop.io(self._fd, WRITABLE)
            self._watcher.start(self._writable)
        if not self._full and self._waiting_bytes() > self._high:
            self._full = True
            self._connection.pause_writing()

    def _try(self, data: bytes | memoryview) -> int:
        """How much the kernel took."""
        try:
            return os.write(self._fd, data)
        except BlockingIOError:
            return 0
        except OSError:
            self.abort()
            return 0

    def _waiting_bytes(self) -> int:
        return sum(len(one) for one in self._waiting)

    def _writable(self) -> None:
        """The hub's: the kernel takes more."""
        if len(self._waiting) > 1:
            self._waiting = [memoryview(b"".join(self._waiting))]
        sent = self._try(self._waiting[0])
        if self._dead:
            return
        left = memoryview(self._waiting[0])[sent:]
        self._waiting = [left] if left else []
        if self._full and len(left) <= self._high // 4:
            self._full = False
            self._connection.resume_writing()
        if not self._waiting:
            self._unwatch()
            self._finish()

    def _unwatch(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
            self._watcher.close()
            self._watcher = None

    def _finish(self) -> None:
        if self._dead or self._waiting:
            return
        if self._closes:
            self.abort()
        elif self._ends:
            with contextlib.suppress(OSError):
                self._sock.shutdown(socket.SHUT_WR)

    def can_write_eof(self) -> bool:
        """It can."""
        return True

    def write_eof(self) -> None:
        """Nothing more will be written, after what waits."""
        self._ends = True
        self._finish()

    def close(self) -> None:
        """Write what waits, then close."""
        self._closes = True
        self._finish()

    def abort(self) -> None:
        """Close now. The greenlet that reads sees it, and says goodbye."""
        if self._dead:
            return
        self._dead = True
        self._waiting.clear()
        self._unwatch()
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        # the greenlet that reads may be the one that waits for it, in a handler
        if self._connection.outbox is not None:
            self._connection.outbox.lost()
        self.wake()


class GreenOutbox(Outbox):
    """A queue that greenlets wait for."""

    __slots__ = ("_waits",)

    def __init__(self, tick: int) -> None:
        super().__init__(tick)
        self._waits: Any = AsyncResult()

    def wait(self) -> None:  # type: ignore[override]
        """Wait until nothing waits any more. Raises Gone where the connection ends before."""
        self._waits.get()

    def emptied(self) -> None:
        """Wake who waits."""
        self._waits.set()

    def lost(self) -> None:
        """Tell who waits that it was in vain."""
        self._waits.set_exception(Gone("The connection ended before it had taken everything."))


class GeventConnection(Connection):
    """One client: as the asyncio host's, and `drain` blocks the greenlet that calls it."""

    __slots__ = ()

    server: GeventServer

    def __init__(self, server: GeventServer, request: Request | None = None, first_bytes: bytes = b"") -> None:
        super().__init__(server, request, first_bytes)

    def drain(self) -> None:  # type: ignore[override]
        """Wait until the client has taken what waits; in on_connect for nothing. Raises Gone where it ends before."""
        if self._phase > LEAVING:
            raise Gone("The connection is closed.")
        if self._phase == CONNECTING:
            return
        self.flush()
        if self.outbox is not None:
            self.outbox.wait()

    @property
    def transport(self) -> GreenTransport | None:
        """Its socket, while it has one."""
        transport: GreenTransport | None = self._transport
        return transport

    def gather(self, frame: bytes) -> bool:
        """Write it when this read was handled, or before if its handler waits."""
        taken = super().gather(frame)
        if not self._scheduled:
            self._scheduled = True
            self.server.schedule(self)
        return taken

    def make_outbox(self) -> GreenOutbox:
        """One that greenlets wait for."""
        return GreenOutbox(self.server.watch.tick)

    def begin(self, messages: Iterable[Data]) -> Iterator[Data]:
        """Handlers of these run now, in the greenlet that read them."""
        self._busy = True
        return super().begin(messages)

    def end(self) -> None:
        """They are done."""
        self._busy = False
        super().end()

    def _listen(self) -> int:
        # the greenlet that reads is the one that handles: a pong may be there and unread
        return self.server.watch.idle if self._busy else super()._listen()
