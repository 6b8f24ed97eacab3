"""Handlers, hooks, and what is sent: order, waiting, closing."""

from __future__ import annotations

import asyncio
import contextvars
from typing import Any

import pytest
import uvloop
from served import Peer, make, running, until

from websocket_fabric import Connection, Data, Deflate, Gone, Limits, Message, Metrics, Refused
from websocket_fabric.handshake import Rejected


def test_what_a_handler_returns_is_sent_back() -> None:
    """Text, bytes and Message objects; None sends nothing."""

    async def main() -> None:
        server = make()

        @server.on_message
        async def handle(message: Message) -> str | bytes | Message | None:
            if message.data == "wrapped":
                return Message(b"in a message")
            return None if message.data == "nothing" else message.data

        async with running(server):
            peer = await Peer.open(server)
            peer.send("text", "nothing", b"bytes", "wrapped")
            assert [await peer.receive() for _ in range(3)] == ["text", b"bytes", b"in a message"]
            assert await peer.close() == 1000

    uvloop.run(main())


def test_plain_functions_are_handlers_too() -> None:
    """One with a Message, and one with the connection and the data."""

    async def main() -> None:
        server, bare = make(), make()
        server.on_message(lambda message: message.data)

        @bare.on_data
        def handle(connection: Connection, data: Data) -> Data:
            connection.send("first")
            return data

        async with running(server), running(bare):
            peer, other = await Peer.open(server), await Peer.open(bare)
            peer.send("a", b"b")
            other.send("second")
            assert [await peer.receive() for _ in range(2)] == ["a", b"b"]
            assert [await other.receive() for _ in range(2)] == ["first", "second"]
            peer.cut(), other.cut()
        with pytest.raises(TypeError, match="on_message"):
            bare.on_data(_waits)  # type: ignore[arg-type]

    uvloop.run(main())


async def _waits(connection: Connection, data: Data) -> None:
    raise AssertionError


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
def test_handlers_that_wait_keep_the_order(run: Any) -> None:
    """Some of them wait, some do not; one connection's are answered in order, another's are not held up."""

    async def main() -> None:
        server = make(Limits(inbox_messages_max=8))
        gate = asyncio.Event()

        @server.on_message
        async def handle(message: Message) -> Data:
            number = int(message.data)
            if number == 0:
                await gate.wait()
            elif number % 3 == 0:
                await asyncio.sleep(0)
            return message.data

        async with running(server):
            slow, quick = await Peer.open(server), await Peer.open(server)
            slow.send(*map(str, range(200)))
            quick.send("1")
            assert await quick.receive() == "1"
            assert not slow.messages
            gate.set()
            assert [await slow.receive() for _ in range(200)] == [*map(str, range(200))]
            slow.cut(), quick.cut()

    run(main())


def test_a_handler_that_does_not_wait_costs_no_task() -> None:
    """A thousand messages are handled in the one task that stands ready."""

    async def main() -> None:
        server = make()
        tasks = set()

        @server.on_message
        async def handle(message: Message) -> Data:
            tasks.add(asyncio.current_task())
            return message.data

        async with running(server):
            peer = await Peer.open(server)
            before = asyncio.all_tasks()
            peer.send(*["x"] * 1000)
            for _ in range(1000):
                await peer.receive()
            assert len(tasks) == 1
            assert len(asyncio.all_tasks() - before) <= 1
            peer.cut()

    uvloop.run(main())


def test_a_full_inbox_pauses_reading() -> None:
    """While a handler waits, only so many messages are read; all are handled in the end."""

    async def main() -> None:
        server = make(Limits(inbox_messages_max=4))
        gate, handled = asyncio.Event(), 0

        @server.on_message
        async def handle(message: Message) -> None:
            nonlocal handled
            await gate.wait()
            handled += 1

        async with running(server):
            peer = await Peer.open(server)
            for _ in range(200):
                peer.send("x" * 10_000)
                await peer.writer.drain()
                await asyncio.sleep(0)
            assert server.counts.messages_in < 200
            gate.set()
            await until(lambda: handled == 200)
            peer.cut()

    uvloop.run(main())


def test_timeouts_and_context_work_in_handlers() -> None:
    """A timeout that is over before the task comes to its turn, and a context variable that is reset after waiting."""
    variable = contextvars.ContextVar("variable", default="outside")

    async def main() -> None:
        variable.set("of the server")
        server = make()

        @server.on_message
        async def handle(message: Message) -> Data:
            inherited = variable.get()
            token = variable.set("inside")
            try:
                async with asyncio.timeout(0):
                    await asyncio.sleep(60)
            except TimeoutError:
                return f"{inherited}, {variable.get()}, timed out"
            finally:
                variable.reset(token)
            return "never"

        async with running(server):
            peer = await Peer.open(server)
            peer.send("x", "y")
            for _ in range(2):
                assert await peer.receive() == "of the server, inside, timed out"
            peer.cut()

    uvloop.run(main())


def test_what_came_before_the_goodbye_is_answered_before_it() -> None:
    """A client that sends and closes at once loses no answer, though handlers wait."""

    async def main() -> None:
        server = make()

        @server.on_message
        async def handle(message: Message) -> Data:
            await asyncio.sleep(0.01)
            return message.data

        async with running(server):
            peer = await Peer.open(server)
            peer.writer.write(b"".join(peer.protocol.message(str(n)) for n in range(5)) + peer.protocol.close())
            assert await peer.end() == 1000
            assert peer.messages == [*map(str, range(5))]

    uvloop.run(main())


def test_close_from_a_handler() -> None:
    """What was sent before arrives, then the code; nothing is handled after it, and nothing can be sent."""

    async def main() -> None:
        server, handled, closed = make(), [], []

        @server.on_message
        async def handle(message: Message) -> Data:
            handled.append(message.data)
            assert message.connection is not None
            message.connection.send("before")
            message.connection.close(4000, "enough")
            assert not message.connection.send("after")
            with pytest.raises(Gone):
                await message.connection.drain()
            return "after"

        @server.on_close
        async def on_close(connection: Connection) -> None:
            await asyncio.sleep(0)
            closed.append((connection.close_code, connection.is_open))

        async with running(server):
            peer = await Peer.open(server)
            peer.send("x", "y")
            assert await peer.end() == 4000
            assert peer.messages == ["before"]
            assert peer.protocol.close_reason == "enough"
            await until(lambda: closed)
        assert (handled, closed) == (["x"], [(4000, False)])

    uvloop.run(main())


def test_on_connect_is_first_and_may_refuse() -> None:
    """It waits, sends, joins; what it refuses gets its status; what it fails at gets 500; headers are gone after."""

    async def main() -> None:
        server, seen = make(subprotocols=["b", "a"]), []
        server.on_message(lambda message: message.data)

        @server.on_connect
        async def on_connect(connection: Connection) -> None:
            assert connection.request is not None
            if connection.request.target == "/refuse":
                raise Refused(401, "Who are you?")
            if connection.request.target == "/fail":
                raise LookupError
            seen.append(connection)
            connection.send(f"{connection.request.headers['host']} {connection.path} {connection.subprotocol}")
            await asyncio.sleep(0.01)
            connection.send("welcome")

        async with running(server):
            for target, status in (("/refuse", 401), ("/fail", 500)):
                with pytest.raises(Rejected) as rejected:
                    await Peer.open(server, target)
                assert rejected.value.status == status
            peer = await Peer.open(server, "/x?y", subprotocols=["a", "b"])
            peer.send("hasty")
            assert [await peer.receive() for _ in range(3)] == ["127.0.0.1 /x?y b", "welcome", "hasty"]
            assert seen[0].request is None
            assert server.counts.handshakes_refused == 2
            peer.cut()

    uvloop.run(main())


def test_groups_and_broadcast() -> None:
    """To all, to a group, not to one; who left or is gone gets nothing; compression or not makes no difference."""

    async def main() -> None:
        server = make(deflate=Deflate(context_takeover=True, message_bytes_min=0))
        connections: list[Connection] = []
        server.on_connect(connections.append)

        async with running(server):
            peers = [await Peer.open(server, deflate=deflate) for deflate in (None, Deflate(), None)]
            for connection in connections[:2]:
                connection.join("even")
            connections[0].send("before")
            assert server.broadcast("all") == 3
            assert server.broadcast("group", "even", exclude=connections[0]) == 1
            connections[1].leave("even")
            assert server.broadcast(b"less", "even") == 1
            peers[0].cut()
            await until(lambda: len(server.connections) == 2)
            assert server.broadcast("nobody", "even") == 0
            assert len(server.groups) == 0
            connections[1].send("own" * 100)
            assert server.broadcast("last") == 2
            assert [await peers[1].receive() for _ in range(4)] == ["all", "group", "own" * 100, "last"]
            assert [await peers[2].receive() for _ in range(2)] == ["all", "last"]
            for peer in peers[1:]:
                peer.cut()

    uvloop.run(main())


def test_sends_of_one_turn_are_written_together() -> None:
    """In the order in which they were made, from wherever."""

    async def main() -> None:
        server = make()
        connections: list[Connection] = []
        server.on_connect(connections.append)
        async with running(server):
            peer = await Peer.open(server)
            for number in range(1000):
                connections[0].send(str(number))
            assert server.counts.messages_out == 0
            assert [await peer.receive() for _ in range(1000)] == [*map(str, range(1000))]
            assert server.counts.messages_out == 1000
            peer.cut()

    uvloop.run(main())


def test_metrics_hear_what_is_rare() -> None:
    """Opened, closed with its code, refused, and the round trip of a ping."""

    class Heard(Metrics):
        def __init__(self) -> None:
            self.heard: list[Any] = []

        def opened(self, connection: Connection) -> None:
            self.heard.append("opened")

        def closed(self, connection: Connection, code: int) -> None:
            self.heard.append(code)

        def handshake_refused(self, status: int) -> None:
            self.heard.append(status)

        def rtt(self, connection: Connection, rtt_s: float) -> None:
            self.heard.append(0 < rtt_s < 10)

    async def main() -> None:
        metrics = Heard()
        server = make(metrics=metrics, origins=["https://good.example"])
        async with running(server):
            with pytest.raises(Rejected):
                await Peer.open(server, origin="https://evil.example")
            peer = await Peer.open(server, origin="https://good.example")
            (connection,) = server.connections
            connection.ping()
            connection.send("sync")
            await peer.receive()
            await until(lambda: connection.rtt_s)
            assert await peer.close() == 1000
            await until(lambda: not server.connections)
        assert metrics.heard == [403, "opened", True, 1000]

    uvloop.run(main())
