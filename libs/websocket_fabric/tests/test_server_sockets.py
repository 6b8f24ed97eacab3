"""Sockets that are not the usual ones: those that somebody else accepted, and Unix sockets."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest
import uvloop
from served import HOST, Peer, running, until

from websocket_fabric import WebSocketServer
from websocket_fabric.handshake import Request, build_request, parse_request


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_adopted_sockets_are_served(run: Any) -> None:
    """A socket that somebody else accepted, with what its client sent too early; a bad request is answered over it."""

    async def main() -> None:
        server = WebSocketServer()
        server.on_message(lambda message: message.data)
        async with running(server):
            ours, theirs = socket.socketpair()
            asked = build_request(HOST, "/adopted")
            parsed = parse_request(asked.request)
            assert parsed is not None
            peer = Peer(*await asyncio.open_connection(sock=theirs))
            early = peer.protocol.message("too early")
            connection = await server.adopt(ours, parsed[0], early)
            head = await peer.reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 101 ")
            assert await peer.receive() == "too early"
            assert connection.path == "/adopted"
            assert await peer.close() == 1000
            ours, theirs = socket.socketpair()
            refused = await server.adopt(ours, Request("/", {"host": "x"}))
            reader, writer = await asyncio.open_connection(sock=theirs)
            assert (await reader.read()).startswith(b"HTTP/1.1 426 ")
            assert not refused.is_open
            writer.close()
            await until(lambda: not server.connections and not server.arriving)

    run(main())


def test_a_unix_socket_will_do(tmp_path: Path) -> None:
    """At unix:/path, which is gone afterwards."""

    async def main() -> None:
        path = tmp_path / "server.sock"
        server = WebSocketServer(f"unix:{path}")
        server.on_message(lambda message: message.data)
        async with running(server):
            peer = Peer(*await asyncio.open_unix_connection(str(path)))
            await peer.shake()
            peer.send("x")
            assert await peer.receive() == "x"
            assert await peer.close() == 1000
            with pytest.raises(RuntimeError, match="no port"):
                _ = server.port
        assert not path.exists()
        with pytest.raises(ValueError, match="no address"):
            await WebSocketServer("nowhere").start()

    uvloop.run(main())
