"""Between the request and its answer: what on_connect sends and what is broadcast waits, bounded and in order."""

from __future__ import annotations

import asyncio
from typing import Any

import gevent.event
import pytest
import uvloop
from gevent_host import gevent_server
from raw_peer import RawPeer
from served import Peer, make, running

from websocket_fabric import Connection, Deflate, Limits, Refused
from websocket_fabric.gevent_server import GeventServer
from websocket_fabric.handshake import Rejected

KB = 1024
MANY = 30
FEW: dict[str, Any] = {"outbox_messages_max": 4, "outbox_bytes_max": 64 * KB}


def test_who_joins_in_on_connect_hears_what_is_said_from_then_on() -> None:
    """In the order in which it was said, before it joined nothing, and where it is refused nobody took anything."""

    async def main() -> None:
        server = make()
        joined, loaded = asyncio.Event(), asyncio.Event()

        @server.on_connect
        async def on_connect(connection: Connection) -> None:
            connection.send("first")
            assert not server.broadcast("before") or connection.path == "/refused"
            connection.join("room")
            joined.set()
            await loaded.wait()
            connection.send("history")
            if connection.path == "/refused":
                raise Refused(401, "Who are you?")

        async with running(server):
            opening = asyncio.create_task(Peer.open(server))
            await joined.wait()
            assert server.broadcast("between", "room") == 1
            assert server.broadcast("elsewhere", "other") == 0
            assert server.broadcast("to all") == 1
            loaded.set()
            peer = await opening
            assert server.broadcast("after", "room") == 1
            heard = [await peer.receive() for _ in range(5)]
            assert heard == ["first", "between", "to all", "history", "after"]
            sent = server.counts.messages_out
            assert sent == 5
            with pytest.raises(Rejected, match="401"):
                await Peer.open(server, "/refused")
            assert server.broadcast("alone", "room") == 1
            assert (server.counts.messages_out, server.counts.messages_dropped) == (sent + 2, 0)
            peer.cut()

    uvloop.run(main())


def test_on_gevent_too() -> None:
    """There on_connect blocks, and its client waits no less."""
    joined, loaded = gevent.event.Event(), gevent.event.Event()

    def prepare(server: GeventServer) -> None:
        @server.on_connect
        def on_connect(connection: Any) -> None:
            connection.join("room")
            joined.set()
            loaded.wait()
            for number in range(10):
                connection.send(str(number))
            connection.drain()

    def say(server: GeventServer) -> int:
        joined.wait()
        taken = server.broadcast("between", "room")
        loaded.set()
        return taken

    limits = Limits(when_full="drop_oldest", **FEW)
    with gevent_server(prepare, limits=limits) as host, RawPeer(host.port) as peer:
        saying = asyncio.to_thread(host.call, say)

        async def both() -> tuple[int, int]:
            taken, status = await asyncio.gather(saying, asyncio.to_thread(peer.shake))
            return taken, status

        assert asyncio.run(both()) == (1, 101)
        assert [peer.receive() for _ in range(4)] == ["6", "7", "8", "9"]
        assert host.server.counts.messages_dropped == 7


@pytest.mark.parametrize("when_full", ["close", "block"])
def test_who_says_too_much_at_once_is_closed(when_full: Any) -> None:
    """By number or by bytes: 1013, everything that waited is dropped and counted, and nothing more is taken."""

    async def main() -> None:
        server = make(Limits(when_full=when_full, **FEW))
        taken: list[bool] = []

        @server.on_connect
        async def on_connect(connection: Connection) -> None:
            size = 8 if connection.path == "/many" else 30 * KB
            taken[:] = [connection.send("x" * size) for _ in range(6)]
            await connection.drain()

        async with running(server):
            for path, fit in (("/many", 4), ("/long", 2)):
                before = server.counts.messages_dropped
                peer = await Peer.open(server, path)
                assert await peer.end() == 1013
                assert peer.messages == []
                assert taken == [True] * fit + [False] * (6 - fit)
                assert server.counts.messages_dropped - before == fit + 1

    uvloop.run(main())


@pytest.mark.parametrize("deflate", [None, Deflate(context_takeover=True, message_bytes_min=0)])
def test_drop_oldest_keeps_the_newest(deflate: Deflate | None) -> None:
    """Also of a compressor that remembers: what was thrown away is nothing that a later message refers to."""

    async def main() -> None:
        server = make(Limits(when_full="drop_oldest", **FEW), deflate=deflate)

        @server.on_connect
        async def on_connect(connection: Connection) -> None:
            assert all(connection.send(f"the same words {number}") for number in range(10))

        async with running(server):
            peer = await Peer.open(server, deflate=deflate)
            assert [await peer.receive() for _ in range(4)] == [f"the same words {number}" for number in range(6, 10)]
            assert server.counts.messages_dropped == 6
            peer.cut()

    uvloop.run(main())


def test_nothing_follows_the_goodbye_of_on_connect() -> None:
    """What was sent before it arrives, what comes after it is not taken, be it sent or broadcast."""

    async def main() -> None:
        server = make()

        @server.on_connect
        async def on_connect(connection: Connection) -> None:
            connection.join("room")
            connection.send("before")
            connection.close(4001, "That is all.")
            assert not connection.send("after")
            assert server.broadcast("after", "room") == 0

        async with running(server):
            peer = await Peer.open(server)
            assert await peer.end() == 4001
            assert peer.messages == ["before"]

    uvloop.run(main())


def test_what_the_kernel_does_not_take_at_once_waits_on() -> None:
    """More than the transport holds is written in pieces, and `drain` after on_connect waits for all of it."""

    async def main() -> None:
        server = make(Limits(outbox_bytes_max=8 * KB * KB, socket_send_bytes=8 * KB))

        @server.on_connect
        async def on_connect(connection: Connection) -> None:
            for number in range(MANY):
                connection.send(f"{number:08}" + "x" * 60 * KB)

        async with running(server):
            peer = await Peer.open(server)
            (connection,) = server.connections
            assert connection.outbox is not None
            draining = asyncio.create_task(connection.drain())
            assert [int((await peer.receive())[:8]) for _ in range(MANY)] == [*range(MANY)]
            await draining
            assert connection.outbox is None
            peer.cut()

    uvloop.run(main())
