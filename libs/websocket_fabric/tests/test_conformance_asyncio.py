"""The asyncio host against the cases of the Autobahn test suite, run by kosoku's fuzzing client."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import kosoku
import pytest
from conformance import CORE, CORE_CASES, DEFLATE, DEFLATE_CASES, DEFLATE_SOME, LEAVES_FILES_OPEN, failed
from served import HOST, WAIT_S, free_port

TESTS = Path(__file__).parent
CONCURRENCY = 8
BY_THE_CLOCK = "6.4."
"""Text that is refused at its first wrong byte, within a second: "NON-STRICT" where the machine stood still so long.
test_faults.py sees the same without a clock."""

pytestmark = LEAVES_FILES_OPEN


@pytest.fixture
def port() -> Iterator[int]:
    """Of an echo server, which must end well when it is told to."""
    port = free_port()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(TESTS.parent / "src"), *sys.path])}
    server = subprocess.Popen([sys.executable, str(TESTS / "echo_server.py"), str(port)], env=environment)
    _wait_for(port)
    try:
        yield port
        server.send_signal(signal.SIGTERM)
        assert server.wait(WAIT_S) == 0
    finally:
        server.kill()
        server.wait()


def _wait_for(port: int) -> None:
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            socket.create_connection((HOST, port)).close()
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def _run(port: int, cases: Sequence[str], exclude: Sequence[str] = ()) -> Sequence[kosoku.CaseResult]:
    async def run() -> Sequence[kosoku.CaseResult]:
        try:
            return await kosoku.run_fuzzingclient(
                f"ws://{HOST}:{port}", cases=list(cases), exclude_cases=list(exclude), concurrency=CONCURRENCY
            )
        except kosoku.FailureError as failure:
            return failure.results or []

    return asyncio.run(run())


def _check(results: Sequence[kosoku.CaseResult], count: int) -> None:
    assert not failed(results)
    strict = [one for one in results if not one.case_id.startswith(BY_THE_CLOCK)]
    assert {one.behavior.value for one in strict} <= {"OK", "INFORMATIONAL"}
    assert len(results) == count


def test_core(port: int) -> None:
    """All cases without compression: frames, pings, fragments, UTF-8, closing, limits, large messages."""
    _check(_run(port, CORE), CORE_CASES)


def test_compression(port: int) -> None:
    """A case of each kind of compression."""
    _check(_run(port, DEFLATE_SOME), len(DEFLATE_SOME))


@pytest.mark.soak
@pytest.mark.timeout(900)
def test_all_compression(port: int) -> None:
    """All cases of compression: with those of the core they are the suite's 517."""
    assert CORE_CASES + DEFLATE_CASES == 517
    _check(_run(port, DEFLATE), DEFLATE_CASES)
