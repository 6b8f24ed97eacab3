"""Who is there is judged from reports alone, on the clock of who judges."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from reef.contracts.nodes import Vitals, read_vitals
from reef.placement.presence import FAILED_REST_S, FIRST_WORD_S, LOADING_SILENT_S, REMOVED_S, SILENT_S, Watch


class Clock:
    """Time that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def said(clock: Clock, **fields: Any) -> dict[str, Vitals]:
    """A report of this moment."""
    return {"d": Vitals(**({"node": "d", "pool": "chat", "at": clock.now, "state": "ready"} | fields))}


def test_two_missed_beats_are_a_death(clock: Clock) -> None:
    """One late beat is forgiven; a silence of more than two is not, and a new word ends it."""
    watch = Watch(clock)
    first = said(clock)
    watch.see(first)
    clock.now += SILENT_S - 0.1
    watch.see(first)
    assert watch.presence("d") == "alive"
    assert list(watch.serving()) == ["d"]
    clock.now += 0.2
    watch.see(first)
    assert watch.presence("d") == "gone"
    assert watch.gone(["d"]) == ["d"]
    watch.see(said(clock))
    assert watch.presence("d") == "alive"


def test_a_report_taken_away_is_a_death_a_moment_later(clock: Clock) -> None:
    """The moment lets a worker that is started again, or a broker that was emptied, come back."""
    watch = Watch(clock)
    watch.see(said(clock))
    watch.see({})
    assert watch.presence("d") == "alive"
    assert watch.serving() == {}
    clock.now += REMOVED_S + 0.1
    watch.see({})
    assert watch.presence("d") == "gone"


def test_who_loads_may_be_silent_for_longer(clock: Clock) -> None:
    """Opening a driver holds up a whole process for seconds."""
    watch = Watch(clock)
    watch.see(said(clock, loading="next-model"))
    clock.now += LOADING_SILENT_S - 0.1
    assert watch.presence("d") == "alive"
    clock.now += 0.2
    assert watch.presence("d") == "gone"


def test_after_a_start_nobody_is_dead_before_his_first_word(clock: Clock) -> None:
    """Neither without a report nor with an old one that a broker kept; in the end he is."""
    watch = Watch(clock)
    watch.see(said(clock, at=clock.now - 60))
    assert watch.presence("d") == "unknown"
    clock.now += FIRST_WORD_S + 0.1
    assert watch.presence("d") == "gone"


def test_the_clock_of_another_host_does_not_matter(clock: Clock) -> None:
    """A worker whose clock is off is alive as long as its reports change."""
    watch = Watch(clock)
    for beat in range(5):
        watch.see(said(clock, at=clock.now - 2.5 + beat * 0.001))
        clock.now += 1.0
    assert watch.presence("d") == "alive"


def test_idleness_is_counted_from_the_last_work_seen(clock: Clock) -> None:
    """A device that ran something a moment ago is not idle."""
    watch = Watch(clock)
    watch.see(said(clock, running=1))
    clock.now += 5
    watch.see(said(clock, running=1))
    clock.now += 7
    watch.see(said(clock))
    assert watch.idle_s("d") == 7


def test_a_report_of_another_version_is_left_out() -> None:
    """One unreadable report hides no other."""
    good = msgspec.json.encode({"node": "a", "pool": "chat", "at": 1.0, "state": "ready", "new_field": 1})
    assert list(read_vitals([b'{"node": 5}', b"\x00", good])) == ["a"]


def test_a_device_that_is_left_alone_is_gone_at_once(clock: Clock) -> None:
    """Its worker speaks every second, but nothing serves: its work moves, and is back when the device is."""
    watch = Watch(clock)
    watch.see(said(clock))
    clock.now += 1
    watch.see(said(clock, state="quarantined"))
    assert watch.gone(["d"]) == ["d"]
    assert watch.serving() == {}
    clock.now += 60
    watch.see(said(clock, state="quarantined"))
    assert watch.presence("d") == "gone"
    clock.now += 1
    watch.see(said(clock))
    assert (watch.presence("d"), list(watch.serving())) == ("alive", ["d"])


@pytest.mark.parametrize("state", ["ready", "quarantined"])
def test_a_device_whose_work_the_cpu_does_serves(clock: Clock, state: str) -> None:
    """Nothing moves: jobs are answered here, only slower."""
    watch = Watch(clock)
    watch.see(said(clock, state=state, fallback=True))
    assert (watch.presence("d"), list(watch.serving())) == ("alive", ["d"])


def test_one_that_failed_rests(clock: Clock) -> None:
    """Ready again without its place, it is not given it again at once, only to fail anew."""
    watch = Watch(clock)
    watch.see(said(clock))
    watch.see(said(clock, at=clock.now + 0.1, state="failed"))
    clock.now += 1
    watch.see(said(clock))
    assert watch.presence("d") == "gone"
    clock.now += FAILED_REST_S
    watch.see(said(clock))
    assert watch.presence("d") == "alive"
