"""What is remembered of a device: its chip, and how long it is left alone after faults."""

from __future__ import annotations

import pytest

from reef.records.database import Database
from workers.devices.base import HEALTHY_AFTER_S
from workers.devices.memory import QUARANTINES_S, DeviceMemory


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = 1_700_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def memory(any_database: Database, clock: Clock) -> DeviceMemory:
    return DeviceMemory(any_database, "alpha", clock)


def test_each_fault_in_a_row_is_followed_by_a_longer_pause(memory: DeviceMemory, clock: Clock) -> None:
    """The first may happen; then the pauses grow to a quarter of an hour and no further."""
    pauses = []
    for number in range(len(QUARANTINES_S) + 2):
        row = memory.fault("usb:0", f"fault {number}", at=clock())
        pauses.append(max(0.0, row.quarantined_until - clock()))
        clock.now += 1000
    assert pauses == [*QUARANTINES_S, QUARANTINES_S[-1], QUARANTINES_S[-1]]
    assert pauses == sorted(pauses)
    assert (row.failures, row.last_fault, row.last_fault_at) == (8, "fault 7", clock() - 1000)


def test_a_device_that_served_for_long_has_its_first_fault_again(memory: DeviceMemory, clock: Clock) -> None:
    """A stick that gets stuck after hours is restarted at once, each time."""
    for _ in range(4):
        memory.fault("usb:0", "stuck", at=clock())
    again = memory.fault("usb:0", "stuck", at=clock(), served_s=HEALTHY_AFTER_S)
    assert (again.failures, again.quarantined_until) == (1, 0.0)
    memory.fault("usb:0", "stuck", at=clock())
    healthy = memory.healthy("usb:0")
    assert (healthy.failures, healthy.quarantined_until, healthy.last_fault) == (0, 0.0, "stuck")


def test_a_device_that_nothing_can_replace_is_not_locked_away(memory: DeviceMemory, clock: Clock) -> None:
    """Its faults are counted and told all the same."""
    for _ in range(3):
        row = memory.fault("cpu", "crashed", at=clock(), quarantine=False)
    assert (row.failures, row.quarantined_until) == (3, 0.0)


def test_a_name_stands_for_its_chip_until_it_is_let_go(memory: DeviceMemory, clock: Clock) -> None:
    """An opening that could not tell which chip it was changes nothing; hosts have nothing in common."""
    memory.seen("usb:0", "1-2")
    clock.now += 60
    row = memory.seen("usb:0", "")
    assert (row.identity, row.last_seen_at - row.first_seen_at) == ("1-2", 60.0)
    memory.seen("usb:1", "1-4")
    assert memory.taken("usb:1") == {"1-2"}
    other = DeviceMemory(memory.database, "beta", clock)
    assert other.get("usb:0").identity == ""
    assert other.all() == []
    assert memory.forget(["usb:0", "usb:7"]) == 1
    assert [row.name for row in memory.all()] == ["usb:1"]
