"""The gevent host: WebSocketServer for programs of greenlets. Handlers and hooks are plain functions and may block.

The rules (queues, policies, limits, timeouts, closing) are the asyncio host's own code; here is what listens, when
handlers are called, and how it stops. Imports gevent, so nothing else in this package imports it, and patches nothing:
a program whose handlers block in the standard library patches it itself, before anything else.
"""

from __future__ import annotations

import logging
import signal
import socket
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import gevent
from gevent import get_hub
from gevent import socket as green
from gevent.event import Event
from gevent.server import StreamServer

from websocket_fabric.addresses import read_address
from websocket_fabric.asyncio_server import BACKLOG, WebSocketServer
from websocket_fabric.codes import GOING_AWAY
from websocket_fabric.connection import Connection
from websocket_fabric.delivery import FAILURES, DataHandler, Delivery, Handler, Hook, is_async
from websocket_fabric.gevent_connection import GeventConnection, GreenTransport
from websocket_fabric.handshake import Request
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data, Message
from websocket_fabric.watch import Watch

__all__ = ["GeventConnection", "GeventServer"]

log = logging.getLogger(__name__)

Called = TypeVar("Called", bound=Callable[..., Any])


class GreenDelivery(Delivery):
    """Calls the handler in the greenlet that read, one message after the other."""

    def set_handler(self, handler: Handler) -> None:
        """Call this with each message."""
        self._handler = lambda connection, data: handler(Message(data, connection))

    def set_data_handler(self, handler: DataHandler) -> None:
        """Call this with each message's connection and data."""
        self._handler = handler

    def deliver(self, connection: Connection, messages: Iterable[Data]) -> None:
        """Have them handled, and the answers written."""
        handler = self._handler
        if handler is None:
            return
        batch = connection.begin(messages)
        try:
            for data in batch:
                answer = handler(connection, data)
                if answer is not None:
                    connection.send(answer.data if isinstance(answer, Message) else answer)
        except FAILURES as error:  # one connection's failure is told to that connection, and logged
            connection.failed(error)
        finally:
            connection.end()


class GreenWatch(Watch):
    """Ticks in a greenlet."""

    def __init__(self, limits: Limits) -> None:
        super().__init__(limits)
        self._ticking: Any = None

    def start(self) -> None:
        """Begin to tick."""
        if self._ticking is None:
            self._ticking = gevent.spawn(self._tick)

    def stop(self) -> None:
        """Stop ticking."""
        if self._ticking is not None:
            self._ticking.kill(block=False)
            self._ticking = None

    def _tick(self) -> None:
        while True:
            gevent.sleep(self.sweep_s)
            self.advance()


class GeventServer(WebSocketServer):
    """A server at an address (`host:port`, `[::1]:port`, `unix:/path`), or one that adopts what others accepted.

    As WebSocketServer, but everything is a plain function. TLS ends before it.
    """

    def __init__(self, address: str = "", **options: Any) -> None:
        if options.get("tls") is not None:
            raise ValueError("The gevent host speaks no TLS; end it in a proxy before it, or use WebSocketServer.")
        super().__init__(address, **options)
        self.delivery = GreenDelivery()
        self.watch = GreenWatch(self.limits)
        self._stream: Any = None

    # --- what the application says

    def on_message(self, handler: Handler) -> Handler:
        """Decorator: called with each Message, in order; what it returns is sent back. It may block."""
        return super().on_message(_plain(handler))

    def on_connect(self, hook: Hook) -> Hook:
        """Decorator: called before a connection is open; what it sends comes first. Raises Refused to refuse it."""
        return super().on_connect(_plain(hook))

    def on_data(self, handler: DataHandler) -> DataHandler:
        """Decorator: called with the connection and the data; spares a Message for each."""
        return super().on_data(_plain(handler))

    def on_close(self, hook: Hook) -> Hook:
        """Decorator: called once for each connection that was open, when it is gone."""
        return super().on_close(_plain(hook))

    # --- life

    def start(self) -> None:  # type: ignore[override]
        """Listen, where there is an address, and be ready to adopt. Raises ValueError and OSError."""
        listener = self._listen() if self._address else None
        self.is_stopping = False
        self.watch.start()
        if listener is not None:
            self._size(listener)
            self._stream = StreamServer(listener, self._accepted)
            self._stream.start()

    def _listen(self) -> Any:
        address = read_address(self._address)
        if address.path:
            bound = self._bind_unix(address.path)
            listener = green.socket(bound.family, bound.type, bound.proto, fileno=bound.detach())
            listener.listen(BACKLOG)
            return listener
        family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
        return StreamServer.get_listener((address.host, address.port), backlog=BACKLOG, family=family)

    def _accepted(self, sock: Any, _address: Any) -> None:
        self._run(sock, GeventConnection(self))

    def _run(self, sock: Any, connection: GeventConnection) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        GreenTransport(sock, connection).run()

    @property
    def port(self) -> int:
        """The port it listens at. Raises RuntimeError where it listens at none."""
        if self._stream is None or self._place is not None:
            raise RuntimeError("This server listens at no port: it has no address, or was not started.")
        return int(self._stream.server_port)

    def adopt(  # type: ignore[override]
        self, sock: socket.socket, request: Request, first_bytes: bytes = b""
    ) -> GeventConnection:
        """Serve a socket that somebody else accepted, after its request was read; `first_bytes` came after that.

        The socket is the server's from now on. What is wrong with the request is answered over the socket.
        """
        adopted = green.socket(sock.family, sock.type, sock.proto, fileno=sock.detach())
        self._size(adopted)
        connection = GeventConnection(self, request, first_bytes)
        gevent.spawn(self._run, adopted, connection)
        return connection

    def stop(self) -> None:  # type: ignore[override]
        """Stop listening, let handlers end, say goodbye (1001), and cut off who is left after the deadline."""
        self.is_stopping = True
        self._free_unix()
        if self._stream is not None:
            self._stream.stop()
            self._stream = None
        for arriving in tuple(self.arriving):
            arriving.abort()
        empty: Any = Event()
        self._empty = empty
        for connection in tuple(self.connections):
            connection.retire(GOING_AWAY, "The server is stopping; come again.")
        self._leave_until(empty, self.limits.shutdown_timeout_s)
        if self.connections:
            log.warning("%d connections did not leave in time and are cut off.", len(self.connections))
        self._cut_off()
        self._leave_until(empty, self.limits.close_timeout_s)
        self.watch.stop()

    def _leave_until(self, empty: Any, timeout_s: float) -> None:
        if self.connections:
            empty.wait(timeout_s)

    def _cut_off(self) -> None:
        """Also from within a handler that does not end."""
        transports = [
            connection.transport for connection in self.connections if isinstance(connection, GeventConnection)
        ]
        here = gevent.getcurrent()
        for transport in transports:
            if transport is not None:
                transport.abort()
                if transport.greenlet is not here:
                    transport.greenlet.kill(block=False)

    def serve(self) -> None:
        """Serve until SIGINT or SIGTERM, then stop gracefully."""
        told = Event()
        watchers = [gevent.signal_handler(sign, told.set) for sign in (signal.SIGINT, signal.SIGTERM)]
        try:
            self.start()
            told.wait()
            self.stop()
        finally:
            for watcher in watchers:
                watcher.cancel()

    # --- the turn of the loop

    def _call_close_hook(self, hook: Hook, connection: Connection) -> None:
        try:
            hook(connection)
        except FAILURES:
            log.exception("on_close failed")

    def deliver_soon(self, connection: Connection) -> None:
        """Have handled what it set aside, by the greenlet that reads from it."""
        if isinstance(connection, GeventConnection) and connection.transport is not None:
            connection.transport.wake()

    def soon(self, callback: Callable[[], None]) -> None:
        """Call it when the greenlets that run now are done."""
        get_hub().loop.run_callback(callback)


def _plain(function: Called) -> Called:
    if is_async(function):
        raise TypeError(
            f"{function!r} is a coroutine function; handlers of the gevent host are plain ones that may block."
        )
    return function
