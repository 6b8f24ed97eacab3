"""Servers that a client is tested against: one whose every byte the test decides, and one that cuts connections."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from served import free_port

from websocket_fabric.handshake import Request, accept, parse_request
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data
from websocket_fabric.protocol import Protocol


class Peer:
    """The server's end of one connection, in the hands of a test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.protocol = Protocol("server", Limits(message_bytes_max=1 << 26))
        self.request = Request("")
        self.answer_pings = True
        self._arrived: list[Data] = []

    async def shake(self) -> None:
        """The opening handshake."""
        self.request, rest = parse_request(await self.reader.readuntil(b"\r\n\r\n")) or (Request(""), b"")
        self.writer.write(accept(self.request, subprotocols=["chat"]).response)
        assert rest == b""

    async def receive(self) -> Data | None:
        """The next message; None at the end."""
        while not self._arrived:
            if self.protocol.closed:
                return None
            data = await self.reader.read(65536)
            if not data:
                return None
            self._arrived += self.protocol.feed(data)
            if self.answer_pings:
                self.flush()
            else:
                self.protocol.out.clear()
        return self._arrived.pop(0)

    def flush(self) -> None:
        """Write what the protocol answers."""
        self.writer.write(b"".join(self.protocol.out))
        self.protocol.out.clear()

    def send(self, *messages: Data) -> None:
        """Send messages, in one piece."""
        self.writer.write(b"".join(self.protocol.message(one) for one in messages))

    def close(self, code: int, reason: str = "") -> None:
        """Send the closing frame."""
        self.writer.write(self.protocol.close(code, reason))

    def reset(self) -> None:
        """Cut the connection: the other end sees a reset."""
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()


@contextlib.asynccontextmanager
async def peers(script: Callable[[Peer], Awaitable[None]], *, port: int = 0, **options: Any) -> AsyncIterator[int]:
    """A server at the port that is given, which runs the script with each client after its handshake.

    What a script raises is raised here: a check in it cannot be missed.
    """
    failures: list[BaseException] = []
    running: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        try:
            await peer.shake()
            await script(peer)
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        except BaseException as error:
            failures.append(error)
        finally:
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.ensure_future(serve(reader, writer))
        running.add(task)
        task.add_done_callback(running.discard)
        # also where it was cancelled before its first step
        task.add_done_callback(lambda _task: writer.close())

    port = port or free_port()
    server = await asyncio.start_server(begin, "127.0.0.1", port, **options)
    try:
        yield port
    finally:
        server.close()
        for task in [*running]:
            task.cancel()
        if running:
            await asyncio.wait(running)
    real = [failure for failure in failures if not isinstance(failure, asyncio.CancelledError)]
    if real:
        raise real[0]


class Breaker:
    """A TCP relay before a server that cuts each connection after a random number of bytes from the server.

    Half of them end in a reset, half in a plain close; `cuts` counts both.
    """

    def __init__(self, port: int, seed: int, bytes_mean: int) -> None:
        self.port = port
        self._random = random.Random(seed)
        self._bytes_mean = bytes_mean
        self.cuts = 0
        self.resets = 0

    async def relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        up_writer: asyncio.StreamWriter | None = None
        try:
            up_reader, up_writer = await asyncio.open_connection("127.0.0.1", self.port)
            async with asyncio.TaskGroup() as both:
                forward = both.create_task(self._pump(reader, up_writer))
                await self._until_cut(up_reader, writer)
                forward.cancel()
        except (ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            if up_writer is not None:
                up_writer.transport.abort()

    async def _until_cut(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        left = int(self._random.expovariate(1 / self._bytes_mean))
        with contextlib.suppress(ConnectionError):
            while left > 0:
                data = await reader.read(min(left, 4096))
                if not data:
                    return
                writer.write(data)
                left -= len(data)
                await writer.drain()
            self._cut(writer)

    def _cut(self, writer: asyncio.StreamWriter) -> None:
        self.cuts += 1
        if self._random.random() < 0.5:
            self.resets += 1
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(4096):
                writer.write(data)
                await writer.drain()


def padding() -> str:
    """Up to 500 characters, so that no two frames are as long and a cut is nearly never between two."""
    return os.urandom(random.randrange(250)).hex()
