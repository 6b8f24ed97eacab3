"""What a worker's report says of a device that is left alone after faults."""

from __future__ import annotations

import pytest

from reef.contracts.nodes import NodeReport, NodeState
from workers.devices.keeper import DeviceSays
from workers.heartbeat import _of_device


@pytest.mark.parametrize(
    ("state", "pool", "told"),
    [
        ("loading", "media", "quarantined"),
        ("ready", "", "quarantined"),
        ("ready", "media", "ready"),
        ("draining", "media", "draining"),
    ],
)
def test_a_device_that_is_left_alone_is_not_ready_for_a_pool(state: NodeState, pool: str, told: str) -> None:
    """Without a pool it would be given one again at once, only to wait there; what still serves is not called off."""
    report = NodeReport(node="n", pool=pool, device="usb:0", kind="edgetpu", host="h", pid=1, at=0.0, state=state)
    fields = _of_device(report, DeviceSays(waiting="Failed twice; tried again at 12:00:00."))
    assert fields.get("state", state) == told
    assert _of_device(report, DeviceSays()).get("state", state) == state
