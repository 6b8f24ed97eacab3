"""Slow, silent, too many, too early, too long: what the server does when a peer does not do its part. And stopping."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop
from served import HOST, WAIT_S, Peer, free_port, make, running, until

from websocket_fabric import Connection, Data, Gone, Limits, Message, WebSocketServer
from websocket_fabric.handshake import Rejected, Request, build_request, parse_request

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


def test_silent_peers_are_pinged_and_the_dead_are_found() -> None:
    """Who answers a ping stays, for many idle times; who does not is cut off."""

    async def main() -> None:
        server = make(Limits(idle_timeout_s=0.1, ping_timeout_s=0.1))
        async with running(server):
            alive, dead = await Peer.open(server), await Peer.open(server)
            listening = asyncio.create_task(alive.end())
            await until(lambda: len(server.connections) == 1)
            await asyncio.sleep(0.5)
            (connection,) = server.connections
            assert connection.is_open
            assert connection.rtt_s > 0
            assert server.counts.connections_closed == 1
            connection.close(1000)
            assert await listening == 1000
            dead.cut()

    uvloop.run(main())


def test_a_handshake_takes_its_time_or_too_long() -> None:
    """Byte by byte it is accepted; where it does not come to its end in time, it is refused with 408."""

    async def main() -> None:
        server = make(Limits(handshake_timeout_s=0.4))
        async with running(server):
            slow, never = await Peer.raw(server), await Peer.raw(server)
            for byte in build_request(HOST).request:
                slow.writer.write(bytes([byte]))
                await asyncio.sleep(0)
            await until(lambda: len(server.connections) == 1)
            never.writer.write(b"GET / HTTP/1.1\r\n")
            assert (await never.reader.read()).startswith(b"HTTP/1.1 408 ")
            assert len(server.connections) == 1
            slow.cut(), never.cut()

    uvloop.run(main())


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"426"),
        (b"nonsense\r\n\r\n", b"400"),
        (b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000, b"431"),
    ],
)
def test_what_is_no_handshake_gets_a_status(request_: bytes, status: bytes) -> None:
    """And the connection ends."""

    async def main() -> None:
        server = make()
        async with running(server):
            peer = await Peer.raw(server)
            peer.writer.write(request_)
            assert (await peer.reader.read()).split()[1] == status
            assert server.counts.handshakes_refused == 1
            peer.cut()
            await until(lambda: not server.arriving)

    uvloop.run(main())


def test_one_too_many_gets_503() -> None:
    """And when one leaves there is room again."""

    async def main() -> None:
        server = make(Limits(connections_max=2))
        async with running(server):
            peers = [await Peer.open(server) for _ in range(2)]
            with pytest.raises(Rejected) as rejected:
                await Peer.open(server)
            assert rejected.value.status == 503
            peers.pop().cut()
            await until(lambda: len(server.connections) == 1)
            peers.append(await Peer.open(server))
            for peer in peers:
                peer.cut()

    uvloop.run(main())


def test_pause_reading_stops_handlers_at_once() -> None:
    """Those of the same read wait, too; after resume_reading they come in order."""

    async def main() -> None:
        server = make()
        handled: list[Data] = []

        @server.on_message
        async def handle(message: Message) -> None:
            handled.append(message.data)
            if message.data == "1":
                assert message.connection is not None
                message.connection.pause_reading()

        async with running(server):
            peer = await Peer.open(server)
            peer.send("0", "1", "2", "3")
            await until(lambda: len(handled) == 2)
            peer.send("4")
            (connection,) = server.connections
            connection.resume_reading()
            await until(lambda: len(handled) == 5)
            assert handled == ["0", "1", "2", "3", "4"]
            peer.cut()

    uvloop.run(main())


def test_too_long_a_message_is_told_even_to_who_goes_on_sending() -> None:
    """1009 arrives, though the client sends more than the kernel would hold."""

    async def main() -> None:
        server = make(Limits(message_bytes_max=1000))
        async with running(server):
            peer = await Peer.open(server)
            peer.send("x" * 8_000_000)
            assert await peer.end() == 1009

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


def test_stop_is_graceful() -> None:
    """A handler ends and is answered, everybody hears 1001, nobody new is let in; who does not leave is cut off."""

    async def main() -> None:
        server = make(Limits(shutdown_timeout_s=1.0))
        gate, closed = asyncio.Event(), []

        @server.on_message
        async def handle(message: Message) -> Data:
            await gate.wait()
            return message.data

        server.on_close(lambda connection: closed.append(connection.close_code))
        await server.start()
        port = server.port
        working, idle, deaf, half = [await Peer.open(server) for _ in range(3)] + [await Peer.raw(server)]
        working.send("answer me")
        await until(lambda: server.delivery.working)
        stopping = asyncio.create_task(server.stop())
        assert await idle.end() == 1001
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(HOST, port)
        gate.set()
        assert await working.end() == 1001
        assert working.messages == ["answer me"]
        assert not stopping.done()
        async with asyncio.timeout(WAIT_S):
            await stopping
        assert closed == [1001] * 3
        assert not server.connections
        half.cut()
        # its goodbye was never answered; the socket is gone all the same
        assert await deaf.end() == 1001

    uvloop.run(main())


def test_a_client_that_leaves_while_the_server_stops() -> None:
    """Its goodbye and ours cross while a handler is at work; both are said, and its answer arrives."""

    async def main() -> None:
        server = make()
        gate = asyncio.Event()

        @server.on_message
        async def handle(message: Message) -> Data:
            await gate.wait()
            return message.data

        async with running(server):
            peer = await Peer.open(server)
            peer.send("answer me")
            await until(lambda: server.delivery.working)
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0)
            received = server.counts.bytes_in
            peer.writer.write(peer.protocol.close(3000))
            await until(lambda: server.counts.bytes_in > received)
            gate.set()
            assert await peer.end() == 1001
            assert peer.messages == ["answer me"]
            await stopping

    uvloop.run(main())


def test_stop_cancels_a_handler_that_never_ends() -> None:
    """After the deadline."""

    async def main() -> None:
        server = make(Limits(shutdown_timeout_s=0.1))
        cancelled = False

        @server.on_message
        async def handle(message: Message) -> None:
            nonlocal cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

        await server.start()
        peer = await Peer.open(server)
        peer.send("x")
        await until(lambda: server.delivery.working)
        await server.stop()
        assert cancelled
        peer.cut()

    uvloop.run(main())


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


def test_serve_ends_well_on_a_signal() -> None:
    """SIGTERM: clients hear 1001, the process ends with 0."""

    async def main() -> None:
        port = free_port()
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent / "src"), *sys.path])}
        with subprocess.Popen([sys.executable, str(here / "echo_server.py"), str(port)], env=environment) as process:
            reader, writer = await _connect(port)
            peer = Peer(reader, writer)
            await peer.shake()
            process.send_signal(signal.SIGTERM)
            assert await peer.end() == 1001
            assert await asyncio.to_thread(process.wait, WAIT_S) == 0

    uvloop.run(main())


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await asyncio.open_connection(HOST, port)
            except ConnectionError:
                await asyncio.sleep(0.02)
