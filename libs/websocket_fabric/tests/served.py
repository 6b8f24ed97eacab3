"""Servers of this library in the tests' own loop, and peers that speak to them over sockets, bytewise if need be."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from websocket_fabric import Limits, WebSocketServer
from websocket_fabric.handshake import ResponseReader, build_request, check_response
from websocket_fabric.protocol import Protocol

HOST = "127.0.0.1"
WAIT_S = 30.0


def free_port() -> int:
    """A port nobody listens at, below the range that outgoing connections use."""
    for port in random.Random(os.urandom(8)).sample(range(20_000, 32_000), 100):
        with socket.socket() as probe:
            try:
                probe.bind((HOST, port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@asynccontextmanager
async def running(server: WebSocketServer) -> AsyncIterator[WebSocketServer]:
    """It listens, and is stopped at the end."""
    await server.start()
    try:
        yield server
    finally:
        # a test that failed left them open, and uvloop does not end over sockets that nobody closed
        for peer in Peer.opened:
            peer.cut()
        Peer.opened.clear()
        await server.stop()


def make(limits: Limits | None = None, **options: Any) -> WebSocketServer:
    """A server at a port of its own."""
    return WebSocketServer(f"{HOST}:{free_port()}", limits=limits, **options)


class Peer:
    """One client."""

    opened: ClassVar[list[Peer]] = []

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.opened.append(self)
        self.reader, self.writer = reader, writer
        self.protocol = Protocol("client", Limits(message_bytes_max=1 << 30))
        self.messages: list[str | bytes] = []
        self.head = b""
        self.subprotocol = ""

    @classmethod
    async def raw(cls, server: WebSocketServer) -> Peer:
        """Connected, nothing said."""
        return cls(*await asyncio.open_connection(HOST, server.port))

    @classmethod
    async def open(cls, server: WebSocketServer, target: str = "/", **asked: Any) -> Peer:
        """Connected, and shook hands."""
        peer = await cls.raw(server)
        try:
            await peer.shake(target, **asked)
        except BaseException:
            peer.cut()
            raise
        return peer

    async def shake(self, target: str = "/", **asked: Any) -> None:
        """Shake hands. Raises Rejected."""
        question = build_request(HOST, target, **asked)
        self.writer.write(question.request)
        reader, answer = ResponseReader(), None
        while answer is None:
            data = await self._read()
            answer = reader.feed(data) if data else (reader.end(), b"")
        agreed = check_response(question, answer[0])
        self.subprotocol = agreed.subprotocol
        self.protocol = Protocol("client", Limits(message_bytes_max=1 << 30), deflate=agreed.deflate)
        self._take(answer[1])

    def send(self, *messages: str | bytes) -> None:
        """Send them in one write."""
        self.writer.write(b"".join(self.protocol.message(one) for one in messages))

    async def _read(self) -> bytes:
        async with asyncio.timeout(WAIT_S):
            return await self.reader.read(1 << 16)

    def _take(self, data: bytes) -> None:
        self.messages += self.protocol.feed(data)
        self.writer.write(b"".join(self.protocol.out))
        self.protocol.out.clear()

    async def receive(self) -> str | bytes:
        """The next message."""
        while not self.messages:
            data = await self._read()
            assert data, f"closed with {self.protocol.close_code}"
            self._take(data)
        return self.messages.pop(0)

    async def end(self) -> int:
        """Read to the end; gives the close code."""
        try:
            while data := await self._read():
                self._take(data)
        except ConnectionError:
            pass
        self.writer.close()
        return self.protocol.close_code

    async def close(self) -> int:
        """Close by the book."""
        self.writer.write(self.protocol.close())
        return await self.end()

    def cut(self) -> None:
        """Gone without a word."""
        with contextlib.suppress(AttributeError):  # asyncio's TLS in Python 3.11.2, where it is gone already
            self.writer.transport.abort()


async def until(condition: Any) -> None:
    """Wait until it holds; for what a socket tells nobody."""
    async with asyncio.timeout(WAIT_S):
        while not condition():
            await asyncio.sleep(0.002)
