"""Silent, too many, too early, too long: what the server does when a peer does not do its part."""

from __future__ import annotations

import asyncio

import pytest
import uvloop
from served import HOST, Peer, make, running, until

from websocket_fabric import Data, Limits, Message
from websocket_fabric.handshake import Rejected, build_request


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
