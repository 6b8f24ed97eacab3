"""What arrived and waits is bounded in bytes as it is in messages: on both hosts, and at the client."""

from __future__ import annotations

import asyncio
import random
from collections import deque
from typing import Any

import pytest
import uvloop
from client_peers import Peer as ServingPeer
from client_peers import peers
from gevent_host import gevent_server
from raw_peer import RawPeer
from served import Peer, make, running, until

from websocket_fabric import Connection, Data, Limits, Message, connect
from websocket_fabric.asyncio_server import RECEIVE_BYTES
from websocket_fabric.gevent_server import GeventServer
from websocket_fabric.waiting import Waiting
from websocket_fabric.writer import BY_INBOX

KB = 1024
COUNT = 60
BYTES_MAX = 128 * KB
FEW_BYTES = Limits(inbox_messages_max=1000, inbox_bytes_max=BYTES_MAX)
ALONE = Limits(inbox_bytes_max=1)
"""Every message is longer than all that may wait."""
MESSAGE_BYTES = 30 * KB
IN_PART = MESSAGE_BYTES + KB
"""A message, with its header, of which the reads so far brought only a part: it does not wait yet, and counts then."""


def numbered(number: int) -> str:
    """One of those that are sent here."""
    return str(number).ljust(MESSAGE_BYTES, ".")


@pytest.mark.parametrize("seed", range(20))
def test_a_queue_is_full_by_number_or_by_bytes(seed: int) -> None:
    """Whatever comes and goes: its answers are those of counting everything anew."""
    draw = random.Random(seed)
    limits = Limits(inbox_messages_max=draw.choice([1, 2, 8, 40]), inbox_bytes_max=draw.choice([1, 50, 400]))
    waiting, model = Waiting(limits), deque[Data]()
    for _ in range(400):
        if model and draw.random() < 0.5:
            assert waiting.take() == model.popleft()
        else:
            more: list[Data] = [draw.randbytes(draw.randrange(30)) for _ in range(draw.choice([0, 1, 1, 1, 10, 50]))]
            waiting.put(iter(more))
            model.extend(more)
        size = sum(len(one) for one in model)
        assert waiting.is_full == (len(model) >= limits.inbox_messages_max or size >= limits.inbox_bytes_max)
        assert waiting.has_room == (
            len(model) <= limits.inbox_messages_max // 2 and size <= limits.inbox_bytes_max // 2
        )


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_a_server_reads_no_more_than_may_wait(run: Any) -> None:
    """While a handler waits with its message: the limit, what came in part, and one read. All of it is handled in the
    end, in order."""

    async def main() -> None:
        server = make(FEW_BYTES)
        gate, handled = asyncio.Event(), []

        @server.on_message
        async def handle(message: Message) -> None:
            await gate.wait()
            handled.append(message.data)

        async with running(server):
            peer = await Peer.open(server)
            peer.send(*map(numbered, range(COUNT)))
            (connection,) = server.connections
            await until(lambda: connection._held & BY_INBOX)
            in_the_handler = MESSAGE_BYTES + KB
            assert server.counts.bytes_in < in_the_handler + BYTES_MAX + IN_PART + RECEIVE_BYTES
            gate.set()
            await until(lambda: len(handled) == COUNT)
            assert handled == [*map(numbered, range(COUNT))]
            peer.cut()

    run(main())


def test_a_server_of_greenlets_reads_no_more_than_may_wait() -> None:
    """There nothing is read while a handler runs; what its pause set aside holds the reader up after it, too."""
    handled: list[Data] = []
    paused: list[Connection] = []

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def handle(message: Message) -> None:
            handled.append(message.data)
            if message.data == "pause":
                assert message.connection is not None
                paused.append(message.connection)
                message.connection.pause_reading()

    def go_on(_server: GeventServer) -> bool:
        was_full = bool(paused[0]._held & BY_INBOX)
        paused[0].resume_reading()
        return was_full

    with gevent_server(prepare, limits=Limits(inbox_bytes_max=KB)) as host, RawPeer(host.port) as peer:
        assert peer.shake() == 101
        peer.send("pause", "x" * KB, "last of the read")
        asyncio.run(until(lambda: paused))
        peer.send("later")
        assert host.call(go_on)
        asyncio.run(until(lambda: len(handled) == 4))
        assert handled == ["pause", "x" * KB, "last of the read", "later"]


def test_a_message_longer_than_the_limit_passes_alone() -> None:
    """On both hosts nothing comes to a stop, though each message fills the inbox."""

    async def main() -> None:
        server = make(ALONE)

        @server.on_message
        async def handle(message: Message) -> Data:
            await asyncio.sleep(0)
            return message.data

        async with running(server):
            peer = await Peer.open(server)
            peer.send(*map(str, range(COUNT)))
            assert [await peer.receive() for _ in range(COUNT)] == [*map(str, range(COUNT))]
            peer.cut()

    uvloop.run(main())
    with (
        gevent_server(lambda server: server.on_message(lambda message: message.data), limits=ALONE) as host,
        RawPeer(host.port) as peer,
    ):
        assert peer.shake() == 101
        peer.send(*map(str, range(COUNT)))
        assert [peer.receive() for _ in range(COUNT)] == [*map(str, range(COUNT))]


@pytest.mark.parametrize("limits", [FEW_BYTES, ALONE])
def test_a_client_reads_no_more_than_may_wait(limits: Limits) -> None:
    """A receiver that takes nothing holds the server up; afterwards everything comes, in order."""
    count = 400
    sent: list[int] = []

    async def script(peer: ServingPeer) -> None:
        for number in range(count):
            peer.send(numbered(number))
            await peer.writer.drain()
            sent.append(number)
        await peer.receive()

    async def main() -> None:
        async with peers(script) as port, connect(f"ws://127.0.0.1:{port}/", limits=limits) as connection:
            await until(lambda: connection._paused)
            assert len(sent) < count
            assert sum(map(len, connection._inbox._waiting)) < BYTES_MAX + IN_PART + RECEIVE_BYTES
            assert [await connection.receive() for _ in range(count)] == [*map(numbered, range(count))]

    uvloop.run(main())
