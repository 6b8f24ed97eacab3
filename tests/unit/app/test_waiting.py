"""What a person is told when no device of a pool answers."""

from __future__ import annotations

import msgspec
import pytest

from app.waiting import sentence
from reef.contracts.nodes import NodeReport

READY = NodeReport(
    node="chat-cpu.beta", pool="chat", device="cpu", kind="cpu", host="beta", pid=7, at=1000.0, state="ready"
)


@pytest.mark.parametrize(
    ("fields", "now", "expected"),
    [
        ({}, 1003.0, ""),
        ({"state": "draining"}, 1003.0, ""),
        ({}, 1020.0, "chat-cpu.beta was last heard of 20 s ago."),
        (
            {"state": "loading", "progress": 0.4, "note": "reading the model"},
            1001.0,
            "starting (40%): reading the model",
        ),
        ({"state": "failed", "note": "no such device"}, 1001.0, "chat-cpu.beta failed: no such device"),
    ],
)
def test_the_reason_is_the_workers_own(fields: dict[str, object], now: float, expected: str) -> None:
    """A device that serves is no reason; one that starts, failed or is silent is named."""
    told = sentence([msgspec.structs.replace(READY, **fields)], now)
    assert expected in told
    assert bool(told) == bool(expected)


def test_one_device_that_serves_is_enough() -> None:
    """Others that are gone are no reason to wait: the queue is."""
    gone = msgspec.structs.replace(READY, node="chat-cpu.gamma", at=1.0)
    assert sentence([gone, READY], 1003.0) == ""
    assert sentence([], 1003.0).startswith("No device answers right now")
