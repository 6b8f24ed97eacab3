"""One client's thousands of messages do not keep another's waiting: each has its turn of the loop."""

from __future__ import annotations

import asyncio
import itertools
import random
import threading
from collections.abc import Callable
from typing import Any

import pytest
import uvloop
from gevent_host import gevent_server
from raw_peer import RawPeer

from websocket_fabric import Message, WebSocketServer
from websocket_fabric.asyncio_server import RECEIVE_BYTES
from websocket_fabric.gevent_server import GeventServer

EAGER, POLITE = 6000, 1
Handler = Callable[[Message], Any]


class Order:
    """Which messages were handled, in order."""

    def __init__(self, expected: int) -> None:
        self.seen: list[str] = []
        self._expected = expected
        self._all = asyncio.Event()

    def plain(self, message: Message) -> None:
        """A handler that is a function."""
        self.seen.append(str(message.data))
        if len(self.seen) == self._expected:
            self._all.set()

    async def stepped(self, message: Message) -> None:
        """One that does not wait."""
        self.plain(message)

    async def waiting(self, message: Message) -> None:
        """One that waits for its first message only."""
        if not self.seen:
            await asyncio.sleep(0)
        self.plain(message)

    async def wait(self) -> None:
        """Until everything was handled."""
        async with asyncio.timeout(20):
            await self._all.wait()


async def start(handler: Handler) -> WebSocketServer:
    """A server on a port below the range of outgoing connections."""
    while True:
        server = WebSocketServer(f"127.0.0.1:{random.randrange(20_000, 32_000)}")
        server.on_message(handler)
        try:
            await server.start()
        except OSError:
            continue
        return server


@pytest.mark.parametrize("kind", ["plain", "stepped", "waiting"])
def test_a_batch_is_handled_in_turns(kind: str) -> None:
    """Both clients' bytes are there when the server looks: the one message comes between, and no order is lost."""

    async def scenario() -> list[str]:
        order = Order(EAGER + POLITE)
        server = await start(getattr(order, kind))
        with RawPeer(server.port) as eager, RawPeer(server.port) as polite:
            for peer in (eager, polite):
                assert await asyncio.to_thread(peer.shake) == 101
            # nothing is read between these two: the loop is ours
            eager.send(*map(str, range(EAGER)))
            polite.send("polite")
            await order.wait()
        await server.stop()
        return order.seen

    seen = uvloop.run(scenario())
    assert [one for one in seen if one != "polite"] == [str(number) for number in range(EAGER)]
    assert seen.index("polite") < EAGER // 2


def test_a_batch_is_handled_in_turns_by_greenlets_too() -> None:
    """The same in the gevent host, and for as many bytes as the kernel holds, whose reading never waits."""
    seen: list[str] = []
    handled = threading.Event()

    def handle(message: Message) -> None:
        seen.append(str(message.data))
        if message.data == "last":
            handled.set()

    with (
        gevent_server(lambda server: server.on_message(handle)) as host,
        RawPeer(host.port) as early,
        RawPeer(host.port) as eager,
        RawPeer(host.port) as late,
    ):
        assert [peer.shake() for peer in (early, eager, late)] == [101] * 3
        block = b"".join(eager.protocol.message(str(number)) for number in range(200_000))

        def send_both(_server: GeventServer) -> int:
            # in the thread that serves, which reads nothing meanwhile
            eager.socket.setblocking(False)
            early.send("polite")
            sent = eager.socket.send(block)
            late.send("polite")
            return sent

        sent = host.call(send_both)
        assert sent > 2 * RECEIVE_BYTES, "the kernel holds enough for this test"
        eager.socket.setblocking(True)
        eager.socket.sendall(block[sent:] + eager.protocol.message("last"))
        assert handled.wait(20)
    assert [one for one in seen if one != "polite"] == [*map(str, range(200_000)), "last"]
    # whichever the loop looks at first
    assert seen[: int(sent / len(block) * 200_000 / 2)].count("polite") == 2


def test_a_client_is_read_once_a_turn() -> None:
    """Also one that was told to go and floods on: a turn of the loop takes one read of it, however much is there."""

    async def scenario() -> list[int]:
        server = await start(lambda _message: None)
        with RawPeer(server.port) as flooding:
            assert await asyncio.to_thread(flooding.shake) == 101
            next(iter(server.connections)).close()
            flooding.socket.setblocking(False)
            sent = flooding.socket.send(flooding.protocol.message("x") * 200_000)
            assert sent > 2 * RECEIVE_BYTES, "the kernel holds enough for this test"
            read = [server.counts.bytes_in]
            while read[-1] < sent:
                await asyncio.sleep(0)
                read.append(server.counts.bytes_in)
        await server.stop()
        return [after - before for before, after in itertools.pairwise(read)]

    assert max(uvloop.run(scenario())) <= RECEIVE_BYTES
