"""The client that stays connected: when it tries again, when it stops, what it keeps while it is away."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable
from typing import Any

import pytest
import uvloop
from client_peers import Peer, free_port, peers

from websocket_fabric import (
    Backoff,
    Change,
    ConnectionClosed,
    GaveUp,
    Limits,
    OutboxFull,
    ReconnectingClient,
    Rejected,
    State,
    connect,
)
from websocket_fabric.backoff import Attempts

QUICK = Backoff(first_s=0.001, longest_s=0.01, stable_s=0.0)


def run(test: Awaitable[None]) -> None:
    """Bounded."""

    async def bounded() -> None:
        await asyncio.wait_for(test, 20)

    asyncio.run(bounded())


def test_delays_double_to_a_bound_and_are_drawn_from_all_of_it() -> None:
    """Full jitter: from nothing to the bound, which doubles to the longest and stays there."""
    attempts = Attempts(Backoff(first_s=1.0, longest_s=8.0, give_up_after_s=1e9), draw=lambda: 1.0)
    assert [attempts.failed(0.0) for _ in range(6)] == [1.0, 2.0, 4.0, 8.0, 8.0, 8.0]
    drawn = [Attempts(Backoff(first_s=1.0), random.Random(seed).random).failed(0.0) or 0.0 for seed in range(500)]
    assert min(drawn) < 0.05
    assert max(drawn) > 0.95
    assert 0.4 < sum(drawn) / len(drawn) < 0.6


def test_a_row_of_failures_ends_with_a_stable_connection_or_is_given_up() -> None:
    """By their number, or by the time since the first."""
    attempts = Attempts(Backoff(attempts_max=3, stable_s=10.0))
    assert attempts.failed(0.0) is not None
    attempts.lost(open_s=9.9)
    assert attempts.failed(10.0) is not None
    attempts.lost(open_s=10.0)
    assert [attempts.failed(20.0) is None for _ in range(3)] == [False, False, True]
    attempts = Attempts(Backoff(give_up_after_s=5.0), draw=lambda: 0.0)
    assert attempts.failed(100.0) == 0.0
    assert attempts.failed(105.1) is None


def test_a_hint_of_the_server_is_waited_for_up_to_a_bound() -> None:
    """Retry-After is added to the jitter, so that those it was said to do not come back together."""
    attempts = Attempts(Backoff(first_s=1.0, hint_longest_s=60.0), draw=lambda: 0.5)
    assert attempts.failed(0.0, hint_s=7.0) == 7.5
    assert attempts.failed(0.0, hint_s=1e9) == 61.0


def test_it_waits_for_a_server_that_is_not_there_yet_and_tells_where_it_is() -> None:
    """What was sent before the first connection comes then; the hook sees every state."""
    changes: list[Change] = []
    got: list[object] = []

    async def script(peer: Peer) -> None:
        got.extend([await peer.receive(), await peer.receive()])
        peer.close(1000)
        await peer.receive()

    async def test() -> None:
        port = free_port()
        client = ReconnectingClient(connect(f"ws://127.0.0.1:{port}/"), backoff=QUICK, on_state=changes.append)
        async with client:
            client.send("one")
            while not any(change.state == State.WAITING for change in changes):
                await asyncio.sleep(0.005)
            client.send("two")
            async with peers(script, port=port):
                await client.wait_open()
                assert [message async for message in client] == []
        await asyncio.sleep(0)

    run(test())
    assert got == ["one", "two"]
    states = [change.state for change in changes]
    assert states[:2] == [State.CONNECTING, State.WAITING]
    assert states[-2:] == [State.OPEN, State.CLOSED]
    assert "127.0.0.1" in next(change.why for change in changes if change.state == State.WAITING)


def test_it_gives_up_and_says_after_what() -> None:
    """Who receives, waits or sends hears it: the address, the number of failures, the last one, what to do."""

    async def test() -> None:
        port = free_port()
        client = ReconnectingClient(
            connect(f"ws://127.0.0.1:{port}/"), backoff=Backoff(first_s=0.001, longest_s=0.002, attempts_max=4)
        )
        async with client:
            with pytest.raises(GaveUp, match=rf"127.0.0.1:{port}/ after 4 failures .*See that the server runs"):
                await client.receive()
            with pytest.raises(GaveUp):
                await client.wait_open()
            with pytest.raises(GaveUp):
                client.send("in vain")
        assert client.state == State.CLOSED

    run(test())


@pytest.mark.parametrize(("status", "tries"), [(401, 1), (503, 2)])
def test_a_refusal_is_final_unless_it_is_temporary(status: int, tries: int) -> None:
    """401 ends it at once; 503 is tried again after what Retry-After says."""
    asked: list[float] = []
    changes: list[Change] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        asked.append(asyncio.get_running_loop().time())
        head = f"HTTP/1.1 {status if len(asked) == 1 else 404} X\r\nRetry-After: 1\r\nContent-Length: 0\r\n\r\n"
        writer.write(head.encode())
        writer.close()

    async def test() -> None:
        port = free_port()
        async with await asyncio.start_server(serve, "127.0.0.1", port):
            client = ReconnectingClient(
                connect(f"ws://127.0.0.1:{port}/"),
                on_state=changes.append,
                backoff=Backoff(first_s=0.001, hint_longest_s=0.1),
            )
            async with client:
                with pytest.raises(Rejected, match=str(status if tries == 1 else 404)):
                    await client.receive()

    run(test())
    assert len(asked) == tries
    assert [0.1 <= change.delay_s < 0.11 for change in changes if change.state == State.WAITING] == [True] * (tries - 1)


@pytest.mark.parametrize(
    ("code", "reason", "connections", "delay_s"),
    [(1000, "", 1, None), (1008, "", 1, None), (1013, "retry after 0.05 s", 2, 0.05), (1012, "", 2, 0.0)],
)
def test_the_closing_code_decides_whether_it_comes_back(
    code: int, reason: str, connections: int, delay_s: float | None
) -> None:
    """1000 and those that would end the same way are final; 1012 and 1013 are not, and a hint is waited for."""
    changes: list[Change] = []
    seen: list[Peer] = []

    async def script(peer: Peer) -> None:
        seen.append(peer)
        peer.close(code if len(seen) == 1 else 1000, reason)
        await peer.receive()

    async def test() -> None:
        async with peers(script) as port:
            client = ReconnectingClient(
                connect(f"ws://127.0.0.1:{port}/"), on_state=changes.append, backoff=Backoff(first_s=0.001)
            )
            async with client:
                with pytest.raises(ConnectionClosed, match=str(code if connections == 1 else 1000)):
                    await client.receive()
            assert client.connections == connections

    run(test())
    waits = [change.delay_s for change in changes if change.state == State.WAITING]
    assert waits == [] if delay_s is None else delay_s <= waits[0] < delay_s + 0.01


def test_what_waits_while_it_is_away_is_bounded() -> None:
    """`refuse` raises and keeps the first, `drop_oldest` keeps the last and counts; by number and by bytes."""

    async def test() -> None:
        connector = connect(f"ws://127.0.0.1:{free_port()}/", limits=Limits(outbox_messages_max=3, outbox_bytes_max=10))
        async with ReconnectingClient(connector, backoff=Backoff(first_s=5.0)) as client:
            for text in ("one", "two", "six"):
                client.send(text)
            with pytest.raises(OutboxFull, match="3 messages with 9 bytes"):
                client.send("x")
        async with ReconnectingClient(connector, backoff=Backoff(first_s=5.0), when_away="drop_oldest") as client:
            for text in ("one", "two", "six", "ten", "éééé"):
                client.send(text)
            assert client.dropped == 4
            with pytest.raises(OutboxFull):
                client.send("more than ten bytes")

    run(test())


def test_a_message_that_cannot_wait_pushes_nobody_out() -> None:
    """One that is longer than all that may wait is refused before anything is thrown away for it."""
    got: list[object] = []

    async def script(peer: Peer) -> None:
        got.extend([await peer.receive(), await peer.receive()])
        peer.close(1000)
        await peer.receive()

    async def test() -> None:
        port = free_port()
        connector = connect(f"ws://127.0.0.1:{port}/", limits=Limits(outbox_bytes_max=10))
        async with ReconnectingClient(connector, backoff=QUICK, when_away="drop_oldest") as client:
            for text in ("one", "two"):
                client.send(text)
            with pytest.raises(OutboxFull, match=r"11 bytes cannot wait.*limit.*10"):
                client.send("éééééx")
            assert client.dropped == 0
            async with peers(script, port=port):
                with pytest.raises(ConnectionClosed):
                    await client.receive()

    run(test())
    assert got == ["one", "two"]


def test_resuming_waits_for_the_receiver_and_comes_before_what_was_sent() -> None:
    """The first message is made with the token that the receiver left, though it took its time."""
    firsts: list[object] = []

    async def script(peer: Peer) -> None:
        firsts.append(await peer.receive())
        if len(firsts) == 1:
            peer.send("1", "2")
            await peer.writer.drain()
            peer.writer.close()
            return
        firsts.append(await peer.receive())
        peer.close(1000)
        await peer.receive()

    async def test() -> None:
        lost = asyncio.Event()

        def watch(change: Change) -> None:
            if change.state == State.WAITING:
                lost.set()

        async with peers(script) as port:
            client = ReconnectingClient(
                connect(f"ws://127.0.0.1:{port}/"),
                token="0",
                on_resume=lambda token: f"after {token}",
                on_state=watch,
                backoff=QUICK,
            )
            async with client:
                async for message in client:
                    await lost.wait()
                    if message == "1":
                        client.send("said while away")
                        await asyncio.sleep(0.05)
                        assert firsts == ["after 0"]
                    client.token = message

    run(test())
    assert firsts == ["after 0", "after 2", "said while away"]


def test_an_error_of_the_programs_own_is_not_swallowed() -> None:
    """What on_resume raises reaches whoever receives; it is not tried again."""

    async def script(peer: Peer) -> None:
        await peer.receive()

    def fails(token: object) -> str:
        raise LookupError("no such token")

    async def test() -> None:
        async with peers(script) as port:
            async with ReconnectingClient(connect(f"ws://127.0.0.1:{port}/"), on_resume=fails) as client:
                with pytest.raises(LookupError, match="no such token"):
                    await client.receive()
            assert client.connections == 1

    run(test())


def test_drain_and_close_work_across_connections() -> None:
    """drain waits through a reconnect; close ends it with the code that is given, and iteration with it."""
    codes: list[int] = []
    first = asyncio.Event()

    async def script(peer: Peer) -> None:
        if not first.is_set():
            first.set()
            peer.reset()
            return
        assert await peer.receive() == "hello"
        assert await peer.receive() is None
        codes.append(peer.protocol.close_code)

    async def test() -> None:
        async with peers(script) as port:
            client = ReconnectingClient(connect(f"ws://127.0.0.1:{port}/"), backoff=QUICK)
            client.start()
            await first.wait()
            while client.connections < 2:
                await client.drain()
                await asyncio.sleep(0.005)
            client.send("hello")
            receiving = asyncio.ensure_future(client.receive())
            await client.drain()
            await client.close(1001, "leaving")
            with pytest.raises(ConnectionClosed):
                await receiving
            with pytest.raises(ConnectionClosed):
                client.send("after")
            await client.close()

    run(test())
    assert codes == [1001]


@pytest.mark.parametrize("loop", [asyncio.run, uvloop.run])
def test_a_drain_that_waits_lives_through_a_reset(loop: Any) -> None:
    """The transport is full when the connection breaks: the loop goes on, and drain ends with the next connection."""
    visits: list[Peer] = []
    full = asyncio.Event()

    async def script(peer: Peer) -> None:
        visits.append(peer)
        if len(visits) == 1:
            peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
            await full.wait()
            peer.reset()
        else:
            await peer.receive()

    async def fill(client: ReconnectingClient) -> None:
        """Send until somebody has to wait, and wait through the reset."""
        while True:
            client.send(b"x" * 100_000)
            draining = asyncio.ensure_future(client.drain())
            done, _ = await asyncio.wait([draining], timeout=0.1)
            if not done:
                full.set()
                return await draining

    async def test() -> None:
        async with peers(script) as port:
            client = ReconnectingClient(connect(f"ws://127.0.0.1:{port}/"), backoff=QUICK)
            async with client:
                await client.wait_open()
                await asyncio.wait_for(fill(client), 10)
                assert client.connections == 2

    loop(asyncio.wait_for(test(), 20))
