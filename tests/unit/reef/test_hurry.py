"""Bulk work and people who wait, on one machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from reef.hurry import HURRY_S, LOOK_S, STAND_BACK_MAX_S, Hurry


class Clock:
    """Time that passes only where somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def wait(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_bulk_work_stands_back_for_a_turn(tmp_path: Path, clock: Clock) -> None:
    """Another process of the machine marked a turn: the next text waits a moment, and no longer than that."""
    web, bulk = Hurry(tmp_path, clock), Hurry(tmp_path, clock, clock.wait)
    bulk.stand_back()
    assert clock.now == 1000.0, "nobody waits"
    web.mark()
    bulk.stand_back()
    assert clock.now == pytest.approx(1000.0 + HURRY_S)
    bulk.stand_back()
    assert clock.now == pytest.approx(1000.0 + HURRY_S)


def test_turns_without_end_do_not_stop_bulk_work(tmp_path: Path, clock: Clock) -> None:
    """It has at least half of the time for itself."""
    web = Hurry(tmp_path, clock)

    def wait(seconds: float) -> None:
        clock.wait(seconds)
        web.mark()

    bulk = Hurry(tmp_path, clock, wait)
    worked_s = 0.0
    while clock.now < 1010.0:
        web.mark()
        bulk.stand_back()
        clock.now += 0.01
        worked_s += 0.01
    assert 4.0 < worked_s < 6.0


def test_a_mark_of_an_earlier_boot_means_nothing(tmp_path: Path, clock: Clock) -> None:
    """The clock began anew, and the file is still there."""
    Hurry(tmp_path, lambda: 500_000.0).mark()
    Hurry(tmp_path, clock, clock.wait).stand_back()
    assert clock.now - 1000.0 < LOOK_S + STAND_BACK_MAX_S / 100
