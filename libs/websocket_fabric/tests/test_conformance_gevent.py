"""The gevent host against the cases of the Autobahn test suite, run by kosoku."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import kosoku
import pytest
from conformance import CORE, CORE_CASES, DEFLATE, DEFLATE_CASES, DEFLATE_SOME, LEAVES_FILES_OPEN, failed
from gevent_host import gevent_server

from websocket_fabric.deflate import Deflate
from websocket_fabric.gevent_server import GeventServer
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data, Message

LIMITS = Limits(message_bytes_max=1 << 25, outbox_bytes_max=1 << 26)
"""Cases 9.* send 16 MB."""
REMEMBERING = Deflate(
    context_takeover=True, peer_context_takeover=True, window_bits=15, peer_window_bits=15, message_bytes_min=0
)
"""Every message is compressed: kosoku 0.1.0 fails in its own code where text comes back uncompressed, as it may."""


def echo(server: GeventServer) -> None:
    """Answer with what came."""

    @server.on_message
    def answer(message: Message) -> Data:
        return message.data


def run(cases: Sequence[str], deflate: Deflate | None = None) -> Sequence[kosoku.CaseResult]:
    """Run these; raises where one fails."""
    with gevent_server(echo, limits=LIMITS, deflate=deflate) as host:

        async def client() -> Sequence[kosoku.CaseResult]:
            results: Sequence[kosoku.CaseResult] = await kosoku.run_fuzzingclient(
                f"ws://127.0.0.1:{host.port}", cases, concurrency=4
            )
            return results

        return asyncio.run(client())


def test_the_host_passes_all_cases_without_compression() -> None:
    """301 of 301."""
    results = run(CORE)
    assert len(results) == CORE_CASES
    assert failed(results) == []


@LEAVES_FILES_OPEN
@pytest.mark.parametrize(
    ("cases", "deflate"),
    [(DEFLATE_SOME, REMEMBERING), (("12.2.5", "13.2.4", "13.6.6"), Deflate())],
    ids=["remembering", "forgetting"],
)
def test_the_host_passes_cases_of_permessage_deflate(cases: Sequence[str], deflate: Deflate) -> None:
    """With memory of earlier messages and without: one case of each kind."""
    results = run(cases, deflate)
    assert len(results) == len(cases)
    assert failed(results) == []


@pytest.mark.soak
@pytest.mark.timeout(900)
@LEAVES_FILES_OPEN
def test_the_host_passes_all_cases_of_permessage_deflate() -> None:
    """All of 12.* and 13.*."""
    results = run(DEFLATE, REMEMBERING)
    assert len(results) == DEFLATE_CASES
    assert failed(results) == []
