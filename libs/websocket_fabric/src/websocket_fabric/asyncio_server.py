"""The asyncio host (uvloop where it is installed): listens, adopts, keeps all connections, and stops gracefully.

One connection's life is link.py's. Everything here runs in one loop; from another thread use
`loop.call_soon_threadsafe`.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from websocket_fabric.addresses import UnixPlace, read_address
from websocket_fabric.codes import GOING_AWAY
from websocket_fabric.connection import Connection
from websocket_fabric.deflate import Deflate
from websocket_fabric.delivery import FAILURES, DataHandler, Delivery, Handler, Hook
from websocket_fabric.groups import Groups
from websocket_fabric.handshake import Request
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data
from websocket_fabric.metrics import Counts, Metrics
from websocket_fabric.watch import Watch

__all__ = ["Connection", "WebSocketServer"]

log = logging.getLogger(__name__)

RECEIVE_BYTES = 256 * 1024
BACKLOG = 4096


class WebSocketServer:
    """A server at an address (`host:port`, `[::1]:port`, `unix:/path`), or one that adopts what others accepted."""

    def __init__(
        self,
        address: str = "",
        *,
        limits: Limits | None = None,
        origins: Sequence[str] = (),
        subprotocols: Sequence[str] = (),
        deflate: Deflate | None = None,
        metrics: Metrics | None = None,
        tls: ssl.SSLContext | None = None,
        keep_requests: bool = False,
    ) -> None:
        self._address = address
        self._tls = tls
        self._listener: asyncio.AbstractServer | None = None
        self._place: UnixPlace | None = None
        self.limits = limits or Limits()
        self.origins, self.subprotocols = tuple(origins), tuple(subprotocols)
        self.deflate = deflate
        """permessage-deflate, where the client wants it; None for never."""
        self.metrics = metrics or Metrics()
        self.keep_requests = keep_requests
        """Headers are some KB a connection: by default they are forgotten after on_connect."""
        self.counts = Counts()
        self.groups = Groups()
        self.connections: dict[Connection, None] = {}
        """All that are open, or wait for on_connect."""
        self.arriving: set[Connection] = set()
        """Those whose request is not here yet, or was refused."""
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        self.delivery = Delivery()
        self.watch = Watch(self.limits)
        self.connect_hook: Hook | None = None
        self._close_hook: Hook | None = None
        self.is_stopping = False
        self._empty: asyncio.Event | None = None
        self._to_flush: list[Connection] = []
        self._closing: set[asyncio.Task[None]] = set()

    # --- what the application says

    def on_message(self, handler: Handler) -> Handler:
        """Decorator: called with each Message; what it returns is sent back. Plain function, or one that waits."""
        self.delivery.set_handler(handler)
        return handler

    def on_data(self, handler: DataHandler) -> DataHandler:
        """Decorator: a plain function called with the connection and the data; spares a Message for each."""
        self.delivery.set_data_handler(handler)
        return handler

    def on_connect(self, hook: Hook) -> Hook:
        """Decorator: called before a connection is open; what it sends comes first. Raises Refused to refuse it."""
        self.connect_hook = hook
        return hook

    def on_close(self, hook: Hook) -> Hook:
        """Decorator: called once for each connection that was open, when it is gone."""
        self._close_hook = hook
        return hook

    def broadcast(self, data: Data, group: str | None = None, exclude: Connection | None = None) -> int:
        """Send to all, or to a group; it is encoded once. Gives how many took it."""
        return self.groups.broadcast(data, self.connections if group is None else self.groups.members(group), exclude)

    # --- life

    async def start(self) -> None:
        """Listen, where there is an address, and be ready to adopt. Raises ValueError and OSError."""
        address = read_address(self._address) if self._address else None
        self.is_stopping = False
        self.delivery.start()
        self.watch.start()
        if address is None:
            return
        loop = asyncio.get_running_loop()
        if address.path:
            # bound here: given a path, asyncio would remove whatever socket is there
            self._listener = await loop.create_unix_server(
                self._connection, sock=self._bind_unix(address.path), backlog=BACKLOG, ssl=self._tls
            )
        else:
            self._listener = await loop.create_server(
                self._connection, address.host, address.port, backlog=BACKLOG, ssl=self._tls
            )
        for listening in self._listener.sockets:
            self._size(listening)

    def _bind_unix(self, path: str) -> socket.socket:
        place = UnixPlace(path)
        bound = place.bind()
        self._place = place
        return bound

    def _free_unix(self) -> None:
        place, self._place = self._place, None
        if place is not None:
            place.free()

    def _connection(self) -> Connection:
        return Connection(self)

    def _size(self, sock: Any) -> None:
        # accepted sockets inherit it
        if self.limits.socket_send_bytes:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, self.limits.socket_send_bytes)

    @property
    def port(self) -> int:
        """The port it listens at. Raises RuntimeError where it listens at none."""
        for listening in getattr(self._listener, "sockets", ()):
            if listening.family in (socket.AF_INET, socket.AF_INET6):
                return int(listening.getsockname()[1])
        raise RuntimeError("This server listens at no port: it has no address, or was not started.")

    async def adopt(self, sock: socket.socket, request: Request, first_bytes: bytes = b"") -> Connection:
        """Serve a socket that somebody else accepted, after its request was read; `first_bytes` came after that.

        The socket is the server's from now on. What is wrong with the request is answered over the socket.
        """
        sock.setblocking(False)
        self._size(sock)
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        _transport, connection = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Connection(self, request, first_bytes), sock
        )
        return connection

    async def stop(self) -> None:
        """Stop listening, let handlers end, say goodbye (1001), and cut off who is left after the deadline."""
        self.is_stopping = True
        self._free_unix()
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for arriving in tuple(self.arriving):
            arriving.abort()
        self._empty = asyncio.Event()
        for connection in tuple(self.connections):
            connection.retire(GOING_AWAY, "The server is stopping; come again.")
        await self._wait_until_empty(self.limits.shutdown_timeout_s)
        if self.connections:
            log.warning("%d connections did not leave in time and are cut off.", len(self.connections))
        self.delivery.stop()
        for connection in tuple(self.connections):
            connection.abort()
        await self._wait_until_empty(self.limits.close_timeout_s)
        if self._closing:
            await asyncio.wait(self._closing, timeout=self.limits.close_timeout_s)
        self.watch.stop()

    async def _wait_until_empty(self, timeout_s: float) -> None:
        if self.connections and self._empty is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(timeout_s):
                    await self._empty.wait()

    def serve(self) -> None:
        """Serve until SIGINT or SIGTERM, then stop gracefully."""
        try:
            import uvloop
        except ImportError:
            asyncio.run(self._serve())
        else:
            uvloop.run(self._serve())

    async def _serve(self) -> None:
        loop, told = asyncio.get_running_loop(), asyncio.Event()
        for sign in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):
                loop.add_signal_handler(sign, told.set)
        await self.start()
        await told.wait()
        await self.stop()

    # --- what connections tell

    def accepted(self, connection: Connection) -> None:
        """Its request is good."""
        self.arriving.discard(connection)
        self.connections[connection] = None

    def opened(self, connection: Connection) -> None:
        """The handshake is done."""
        self.counts.connections_opened += 1
        if not self.keep_requests:
            connection.request = None
        self.metrics.opened(connection)

    def refused(self, connection: Connection, status: int) -> None:
        """The handshake was refused; the answer is on its way."""
        self.arriving.add(connection)
        self.connections.pop(connection, None)
        self.groups.leave_all(connection)
        self.counts.handshakes_refused += 1
        self.metrics.handshake_refused(status)

    def departed(self, connection: Connection) -> None:
        """It is gone."""
        if self.connections.pop(connection, connection) is connection:
            return
        self.groups.leave_all(connection)
        self.counts.connections_closed += 1
        self.metrics.closed(connection, connection.close_code)
        if self._close_hook is not None:
            self._call_close_hook(self._close_hook, connection)
        if not self.connections and self._empty is not None:
            self._empty.set()

    def _call_close_hook(self, hook: Hook, connection: Connection) -> None:
        try:
            waits = hook(connection)
        except FAILURES:
            log.exception("on_close failed")
            return
        if waits is not None:
            task = asyncio.get_running_loop().create_task(_logged(waits))  # type: ignore[arg-type]
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

    # --- the turn of the loop

    def deliver_soon(self, connection: Connection) -> None:
        """Have handled what it set aside, once whoever made that possible is done."""
        self.soon(connection.deliver_waiting)

    def soon(self, callback: Callable[[], None]) -> None:
        """Call it when the others had their turn."""
        asyncio.get_running_loop().call_soon(callback)

    def schedule(self, connection: Connection) -> None:
        """Write what it gathered at the end of this turn of the loop: one callback for all connections."""
        if not self._to_flush:
            self.soon(self._flush)
        self._to_flush.append(connection)

    def _flush(self) -> None:
        connections, self._to_flush = self._to_flush, []
        for connection in connections:
            connection.flush_scheduled()


async def _logged(waits: Coroutine[Any, Any, None]) -> None:
    try:
        await waits
    except FAILURES:
        log.exception("on_close failed")
