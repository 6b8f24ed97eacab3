"""How long to wait before the next attempt, and when to stop trying. Numbers only: no clock, no sockets.

Exponential back-off with full jitter ("Exponential Backoff And Jitter", AWS Architecture Blog): each delay is drawn
evenly from nothing to a bound that doubles, so that clients that lost one server do not come back to it together.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from websocket_fabric.limits import check_count, check_time


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """The bounds of trying again."""

    first_s: float = 0.2
    """The bound of the first delay; each attempt doubles it."""
    longest_s: float = 30.0
    """And no further than this."""
    attempts_max: int = 20
    """Failures in a row, then it is given up. A connection that was lost before it was stable is one."""
    give_up_after_s: float = 600.0
    """And no longer than this since the first failure in a row; math.inf leaves it to their number."""
    stable_s: float = 10.0
    """A connection that was open this long ends the row: the next failure is the first again."""
    hint_longest_s: float = 300.0
    """A server that asks for more patience than this (Retry-After) is asked again after this."""

    def __post_init__(self) -> None:
        check_count("Backoff", "attempts_max", self.attempts_max, 1)
        for name in ("first_s", "longest_s", "stable_s", "hint_longest_s"):
            check_time("Backoff", name, getattr(self, name), 0)
        if self.give_up_after_s != math.inf:
            check_time("Backoff", "give_up_after_s", self.give_up_after_s, 0)


class Attempts:
    """One row of failures."""

    __slots__ = ("_backoff", "_draw", "failures", "first_failed_s")

    def __init__(self, backoff: Backoff, draw: Callable[[], float] = random.random) -> None:
        self._backoff = backoff
        self._draw = draw
        self.failures = 0
        self.first_failed_s = 0.0

    def failed(self, now_s: float, hint_s: float | None = None) -> float | None:
        """Count a failure: how long to wait before the next attempt, None where it is time to give up."""
        bounds = self._backoff
        if not self.failures:
            self.first_failed_s = now_s
        self.failures += 1
        # 2.0**60 is past any bound, and an exponent without one overflows
        bound_s = min(bounds.longest_s, bounds.first_s * 2.0 ** min(self.failures - 1, 60))
        delay_s = self._draw() * bound_s + min(hint_s or 0.0, bounds.hint_longest_s)
        late = now_s + delay_s - self.first_failed_s > bounds.give_up_after_s
        return None if late or self.failures >= bounds.attempts_max else delay_s

    def lost(self, open_s: float) -> None:
        """A connection that was open this long was lost: a stable one ends the row."""
        if open_s >= self._backoff.stable_s:
            self.failures = 0
