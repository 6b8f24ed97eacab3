"""What is counted of a device from the reports of its worker."""

from __future__ import annotations

import msgspec
from prometheus_client import CollectorRegistry

from reef.contracts.nodes import DeviceHealth, NodeReport
from reef.metrics import DeviceMetrics
from reef.scrape import tell_nodes

FIRST = NodeReport(node="n", pool="chat", device="usb:0", kind="edgetpu", host="h", pid=1, at=1.0, state="loading")
LABELS = {"node": "n", "pool": "chat"}


def test_swaps_loads_and_faults_are_counted_once() -> None:
    """A model that is loaded beside another counts as a load and, when it serves, as a swap; a fault by its time."""
    now = 0.0
    metrics = DeviceMetrics(lambda: now)

    def value(name: str) -> float | None:
        return metrics.registry.get_sample_value(name, LABELS)

    metrics.saw(FIRST)
    assert value("coralreef_model_swaps_total") == 0.0
    now = 3.0
    serving = msgspec.structs.replace(FIRST, state="ready", model="small")
    metrics.saw(serving)
    metrics.saw(serving)
    assert value("coralreef_model_load_seconds_sum") == 3.0
    assert value("coralreef_model_swaps_total") == 0.0, "the first model replaces none"
    metrics.saw(msgspec.structs.replace(serving, loading="large"))
    now = 5.0
    failed = msgspec.structs.replace(serving, model="large", last_fault="the device hung", last_fault_at=7.0)
    metrics.saw(failed)
    metrics.saw(failed)
    assert value("coralreef_model_load_seconds_count") == 2.0
    assert value("coralreef_model_load_seconds_sum") == 5.0
    assert value("coralreef_model_swaps_total") == 1.0
    assert value("coralreef_device_faults_total") == 1.0


def test_what_hardware_does_not_tell_is_left_out() -> None:
    """A device without a thermometer is not at zero degrees."""
    warm = msgspec.structs.replace(FIRST, node="w", health=DeviceHealth(temperature_c=61.5, throttled=False))
    registry = CollectorRegistry()
    tell_nodes({"n": FIRST, "w": warm}, registry)
    read = registry.get_sample_value
    assert read("coralreef_node_temperature_celsius", {"node": "w", "pool": "chat"}) == 61.5
    assert read("coralreef_node_throttled", {"node": "w", "pool": "chat"}) == 0.0
    for name in ("temperature_celsius", "throttled", "resets", "memory_bytes", "last_fault_timestamp_seconds"):
        assert read(f"coralreef_node_{name}", LABELS) is None
    assert read("coralreef_node_loading", LABELS) == 1.0
