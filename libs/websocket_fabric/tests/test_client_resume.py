"""Nothing is lost and nothing comes twice, however often the connection breaks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable

import pytest
import uvloop
from client_peers import Breaker, Peer, free_port, padding, peers

from websocket_fabric.backoff import Backoff
from websocket_fabric.client import connect
from websocket_fabric.reconnecting import ReconnectingClient

QUICK = Backoff(first_s=0.001, longest_s=0.002, attempts_max=1_000_000, stable_s=0.0)


class Numbers:
    """A server that numbers its messages, keeps them, and sends what follows the number that a client says."""

    def __init__(self, count: int) -> None:
        self.kept = [json.dumps({"n": n, "text": padding()}) for n in range(count + 1)][1:]

    async def __call__(self, peer: Peer) -> None:
        """One client."""
        first = await peer.receive()
        if first is None:
            return
        for at in range(json.loads(first)["after"], len(self.kept), 50):
            peer.send(*self.kept[at : at + 50])
            await peer.writer.drain()
        await peer.receive()


async def follow(server_port: int, count: int, breaker: Breaker, token: Callable[[int], int]) -> list[int]:
    """What a client sees through the breaker, until the last number."""
    port = free_port()
    relay = await asyncio.start_server(breaker.relay, "127.0.0.1", port)
    seen: list[int] = []
    client = ReconnectingClient(
        connect(f"ws://127.0.0.1:{port}/"), token=0, on_resume=lambda after: json.dumps({"after": after}), backoff=QUICK
    )
    async with relay, client:
        async for message in client:
            number = json.loads(message)["n"]
            seen.append(number)
            if number % 97 == 0:
                # a receiver that takes its time before it says how far it is
                await asyncio.sleep(0.002)
            client.token = token(number)
            if number == count:
                break
    return seen


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_with_the_token_each_number_comes_exactly_once_through_hundreds_of_cuts(
    loop: Callable[[], asyncio.AbstractEventLoop],
) -> None:
    """Cut at random bytes, mostly in mid-frame: 6,000 numbered messages come once each and in order."""
    count = 6_000

    async def run() -> None:
        breaker = Breaker(0, seed=5, bytes_mean=6_000)
        async with peers(Numbers(count)) as port:
            breaker.port = port
            seen = await follow(port, count, breaker, token=lambda number: number)
        assert seen == list(range(1, count + 1))
        assert breaker.cuts > 200
        assert breaker.resets > 50
        print(f"{breaker.cuts} cuts, {breaker.resets} of them resets: {len(seen)} messages, each once")

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(run())


def test_a_token_that_lags_brings_messages_twice_and_loses_none() -> None:
    """The proof above is one: with the token behind what was seen, the same cuts do show."""
    count = 1_000

    async def run() -> list[int]:
        breaker = Breaker(0, seed=6, bytes_mean=20_000)
        async with peers(Numbers(count)) as port:
            breaker.port = port
            return await follow(port, count, breaker, token=lambda number: number // 10 * 10)

    seen = asyncio.run(run())
    assert set(seen) == set(range(1, count + 1))
    assert len(seen) > count
