"""Clients that read slower than they are written to: the three policies, `drain`, and who takes nothing at all."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import uvloop
from served import HOST, WAIT_S, Peer, make, running, until

from websocket_fabric import Connection, Gone, Limits, Message, WebSocketServer

KB = 1024
NARROW: dict[str, Any] = {"socket_send_bytes": 8 * KB, "outbox_messages_max": 16, "outbox_bytes_max": 256 * KB}
"""Little fits between a server and a client that does not read."""


async def _slow(server: WebSocketServer) -> tuple[Peer, Connection]:
    """A client whose system holds little, too."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 * KB)
    sock.setblocking(False)
    await asyncio.get_running_loop().sock_connect(sock, (HOST, server.port))
    peer = Peer(*await asyncio.open_connection(sock=sock, limit=KB))
    await peer.shake()
    (connection,) = server.connections
    return peer, connection


async def _fill(connection: Connection) -> int:
    """Send until something has to wait; gives how many that were."""
    number = 0
    while connection.outbox is None:
        connection.send(f"{number:08}" + "x" * 8 * KB)
        number += 1
        await asyncio.sleep(0)
    return number


def test_drop_oldest_keeps_the_newest() -> None:
    """The oldest waiting are thrown away and counted; what arrives is in order, and the newest are there."""

    async def main() -> None:
        server = make(Limits(when_full="drop_oldest", **NARROW))
        async with running(server):
            peer, connection = await _slow(server)
            before = await _fill(connection)
            assert all(connection.send(f"{number:08}") for number in range(before, before + 100))
            assert not connection.send("x" * 257 * KB)
            assert server.counts.messages_dropped == 100 - 16 + 1
            got = [int((await peer.receive())[:8]) for _ in range(before + 16)]
            assert got == [*range(before), *range(before + 84, before + 100)]
            peer.cut()

    uvloop.run(main())


def test_close_says_so_to_who_is_too_slow() -> None:
    """The connection is closed with 1013, what waited is dropped and counted; others are not concerned."""

    async def main() -> None:
        server = make(Limits(when_full="close", **NARROW))
        async with running(server):
            peer, connection = await _slow(server)
            other = await Peer.open(server)
            await _fill(connection)
            sent = [connection.send("y") for _ in range(20)]
            assert sent == [True] * 16 + [False] * 4
            assert server.counts.messages_dropped == 17
            server.broadcast("still here")
            assert await other.receive() == "still here"
            assert await peer.end() == 1013
            other.cut()

    uvloop.run(main())


def test_block_holds_the_reader_back() -> None:
    """A client that sends and does not read is not read from; when it reads, all its answers are there."""

    async def main() -> None:
        server = make(Limits(when_full="block", **NARROW))
        server.on_message(lambda message: message.data)
        async with running(server):
            peer, connection = await _slow(server)
            for number in range(300):
                peer.send(f"{number:08}" + "x" * 8 * KB)
            await until(lambda: connection.outbox is not None)
            handled = server.counts.messages_in
            await asyncio.sleep(0.05)
            assert server.counts.messages_in == handled < 300
            assert [int((await peer.receive())[:8]) for _ in range(300)] == [*range(300)]
            assert server.counts.messages_dropped == 0
            peer.cut()

    uvloop.run(main())


def test_drain_waits_for_the_client() -> None:
    """A producer that drains loses nothing and fills nothing; one whose client leaves hears that it is gone."""

    async def main() -> None:
        server = make(Limits(when_full="close", **NARROW))
        done = asyncio.Event()

        @server.on_message
        async def handle(message: Message) -> None:
            assert message.connection is not None
            for number in range(200 if message.data == "all" else 1_000_000):
                message.connection.send(f"{number:08}" + "x" * 4 * KB)
                try:
                    await message.connection.drain()
                except Gone:
                    done.set()
                    raise

        async with running(server):
            peer, _ = await _slow(server)
            peer.send("all", "more")
            assert [int((await peer.receive())[:8]) for _ in range(200)] == [*range(200)]
            await peer.receive()
            peer.cut()
            async with asyncio.timeout(WAIT_S):
                await done.wait()
            assert server.counts.handler_errors == 0
            await until(lambda: not server.connections)

    uvloop.run(main())


def test_who_takes_nothing_is_cut_off() -> None:
    """However long it is pinged and whatever it sends: a buffer that nobody empties ends the connection."""

    async def main() -> None:
        server = make(Limits(idle_timeout_s=0.2, ping_timeout_s=0.2, when_full="block", **NARROW))
        async with running(server):
            peer, connection = await _slow(server)
            await _fill(connection)
            await until(lambda: not server.connections)
            assert connection.close_code == 1006
            peer.cut()

    uvloop.run(main())


def test_a_flood_of_pings_needs_no_room() -> None:
    """A client that pings and does not read is answered once it reads: the newest ping."""

    async def main() -> None:
        server = make(Limits(**NARROW))
        async with running(server):
            peer, connection = await _slow(server)
            before = await _fill(connection)
            for number in range(5000):
                peer.writer.write(peer.protocol.ping(str(number).encode()))
            await until(lambda: connection.outbox is not None and connection.outbox.pong.endswith(b"4999"))
            assert len(connection.outbox or ()) == 0
            for _ in range(before):
                await peer.receive()
            await until(lambda: connection.outbox is None)
            connection.send("after")
            assert await peer.receive() == "after"
            assert peer.protocol.pong == b"4999"
            peer.cut()

    uvloop.run(main())


def test_ten_thousand_frames_in_one_read_are_bounded_by_the_reader() -> None:
    """Answers larger than the questions do not gather without a bound: handlers stop while the client does not read."""

    async def main() -> None:
        server = make(Limits(when_full="block", **NARROW))
        called = 0

        @server.on_message
        def handle(message: Message) -> bytes:
            nonlocal called
            called += 1
            return b"x" * 100 * KB

        async with running(server):
            peer, connection = await _slow(server)
            peer.send(*["a"] * 10_000)
            await until(lambda: connection.outbox is not None)
            await asyncio.sleep(0.05)
            assert called < 10
            for _ in range(30):
                assert len(await peer.receive()) == 100 * KB
            peer.cut()

    uvloop.run(main())
