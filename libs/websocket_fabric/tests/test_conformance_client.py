"""Our client against the cases of the Autobahn test suite, run by kosoku's fuzzing server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import kosoku
import pytest
import uvloop
from client_peers import free_port
from conformance import CORE, CORE_CASES, DEFLATE, DEFLATE_CASES, DEFLATE_SOME, LEAVES_FILES_OPEN, failed

from websocket_fabric.client import connect
from websocket_fabric.client_connection import ConnectionClosed
from websocket_fabric.deflate import Deflate
from websocket_fabric.limits import Limits

LIMITS = Limits(message_bytes_max=1 << 25, outbox_bytes_max=1 << 26)
"""Cases 9.* send 16 MB."""
REMEMBERING = Deflate(context_takeover=True, peer_context_takeover=True, message_bytes_min=0)
"""Every message is compressed. kosoku 0.1.0 fails in its own code where text comes back uncompressed, as it may
where compressing would not make it smaller."""
FORGETTING = Deflate(message_bytes_min=0)
FORGETTING_ONLY = ("13.2.*", "13.5.*", "13.6.*")
"""kosoku asks clients to forget earlier messages here, and only those that offer to."""
TOGETHER = 4
AGENT = "agent=websocket_fabric"


async def echo(address: str, number: int, deflate: Deflate | None) -> None:
    """Run one case: send back what comes."""
    async with connect(f"ws://{address}/runCase?case={number}&{AGENT}", limits=LIMITS, deflate=deflate) as connection:
        while True:
            try:
                connection.send(await connection.receive())
            except ConnectionClosed:
                return


async def run(
    cases: Sequence[str], deflate: Deflate | None = None, exclude: Sequence[str] = ()
) -> Sequence[kosoku.CaseResult]:
    """Run these, a few at a time; raises where one fails."""
    port = free_port()
    async with kosoku.run_fuzzingserver(cases, exclude, port=port) as server:
        address = f"127.0.0.1:{port}"
        async with connect(f"ws://{address}/getCaseCount") as connection:
            numbers = iter(range(1, int(await connection.receive()) + 1))

        async def work() -> None:
            for number in numbers:
                await echo(address, number, deflate)

        await asyncio.gather(*(work() for _ in range(TOGETHER)))
        async with connect(f"ws://{address}/updateReports?{AGENT}"):
            pass
        results: Sequence[kosoku.CaseResult] = await server.get_result()
        return results


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_the_client_passes_all_cases_without_compression(loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """301 of 301, on both loops."""
    with asyncio.Runner(loop_factory=loop) as runner:
        results = runner.run(run(CORE))
    assert len(results) == CORE_CASES
    assert failed(results) == []


@LEAVES_FILES_OPEN
@pytest.mark.parametrize(
    ("cases", "options"),
    [(DEFLATE_SOME, REMEMBERING), (("13.2.4", "13.5.7", "13.6.3"), FORGETTING)],
    ids=["remembering", "forgetting"],
)
def test_the_client_passes_cases_of_permessage_deflate(cases: Sequence[str], options: Deflate) -> None:
    """With memory of earlier messages and without: one case of each kind."""
    results = asyncio.run(run(cases, options))
    assert len(results) == len(cases)
    assert failed(results) == []


@pytest.mark.soak
@pytest.mark.timeout(900)
@LEAVES_FILES_OPEN
def test_the_client_passes_all_cases_of_permessage_deflate() -> None:
    """All of 12.* and 13.*."""
    results = [
        *asyncio.run(run(DEFLATE, REMEMBERING, FORGETTING_ONLY)),
        *asyncio.run(run(FORGETTING_ONLY, FORGETTING)),
    ]
    assert len(results) == DEFLATE_CASES
    assert failed(results) == []
