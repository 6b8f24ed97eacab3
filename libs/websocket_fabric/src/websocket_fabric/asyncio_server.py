"""The asyncio host (uvloop where it is installed): sockets in, messages to the handler, answers out.

Owns sockets, timers and queues; what the bytes mean is protocol.py's.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

from websocket_fabric.handshake import Refused, Request, accept, parse_request, refusal
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data, Message
from websocket_fabric.protocol import NORMAL, Protocol

Handler = Callable[[Message], Awaitable[Data | Message | None]]
RECEIVE_BYTES = 256 * 1024


class Connection(asyncio.BufferedProtocol):
    """One client."""

    __slots__ = ("_server", "_transport", "_waiting", "protocol", "request", "state", "subprotocol")

    def __init__(self, server: WebSocketServer, request: Request | None = None) -> None:
        self._server = server
        self._transport: Any = None
        self._waiting = b""
        self.protocol: Protocol | None = None
        self.request = request
        self.subprotocol = ""
        self.state: Any = None
        """Whatever the application keeps with it."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = transport
        if self.request is not None:
            self._open(self.request)

    def get_buffer(self, sizehint: int) -> memoryview:
        """asyncio's: one buffer for all connections of a server, emptied before the next read."""
        return self._server.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """asyncio's."""
        data = bytes(self._server.buffer[:nbytes])
        if self.protocol is None:
            data = self._shake(data)
        if self.protocol is not None:
            self._take(self.protocol, data)

    def _shake(self, data: bytes) -> bytes:
        self._waiting += data
        try:
            parsed = parse_request(self._waiting)
            if parsed is None:
                return b""
            self.request, rest = parsed
            self._open(self.request)
        except Refused as refused:
            self._transport.write(refusal(refused))
            self._transport.close()
            return b""
        self._waiting = b""
        return rest

    def _open(self, request: Request) -> None:
        accepted = accept(request)
        self.subprotocol = accepted.subprotocol
        self._transport.write(accepted.response)
        self.protocol = Protocol("server", self._server.limits)

    def _take(self, protocol: Protocol, data: bytes) -> None:
        answers = [self._server.answer(self, data) for data in protocol.feed(data)]
        written = b"".join([*protocol.out, *(protocol.message(one) for one in answers if one is not None)])
        protocol.out.clear()
        if written:
            self._transport.write(written)
        if protocol.closed:
            self._transport.close()

    def send(self, data: Data) -> None:
        """Send a message. Never blocks."""
        if self.protocol is not None and not self.protocol.closed:
            self._transport.write(self.protocol.message(data))

    def close(self, code: int = NORMAL, reason: str = "") -> None:
        """Begin the closing handshake."""
        if self.protocol is not None:
            self._transport.write(self.protocol.close(code, reason))


class WebSocketServer:
    """A server at an address, or one without that adopts sockets others accepted."""

    def __init__(self, address: str = "", *, limits: Limits | None = None) -> None:
        self._address = address
        self.limits = limits or Limits()
        self.buffer = memoryview(bytearray(RECEIVE_BYTES))
        self._handler: Handler | None = None

    def on_message(self, handler: Handler) -> Handler:
        """Decorator: called with each message; what it returns is sent back."""
        self._handler = handler
        return handler

    def answer(self, connection: Connection, data: Data) -> Data | None:
        """The handler's answer."""
        if self._handler is None:
            return None
        try:
            self._handler(Message(data, connection)).send(None)  # type: ignore[attr-defined]
        except StopIteration as done:
            answered: Data | None = done.value
            return answered
        raise RuntimeError("handlers that wait are not served yet")

    async def start(self) -> None:
        """Listen."""
        host, _, port = self._address.rpartition(":")
        await asyncio.get_running_loop().create_server(lambda: Connection(self), host, int(port), backlog=4096)

    async def adopt(self, sock: socket.socket, request: Request) -> Connection:
        """Serve a socket that somebody else accepted and whose request was read already."""
        sock.setblocking(False)
        _transport, connection = await asyncio.get_running_loop().connect_accepted_socket(
            lambda: Connection(self, request), sock
        )
        return connection

    def serve(self) -> None:
        """Serve until interrupted."""
        import uvloop

        async def forever() -> None:
            await self.start()
            await asyncio.Event().wait()

        uvloop.run(forever())
