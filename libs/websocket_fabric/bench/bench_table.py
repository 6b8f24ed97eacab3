"""Arithmetic on what was measured, and Markdown of it. Measures nothing."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple


class Goal(NamedTuple):
    """A stated goal and what was measured."""

    text: str
    found: str
    met: bool

    def line(self) -> str:
        """One line of Markdown."""
        return f"- {'met' if self.met else '**missed**'}: {self.text} (measured: {self.found})"


def median(values: Sequence[float]) -> float:
    """The middle value; nan where there is none."""
    return statistics.median(values) if values else math.nan


def times(ours: Sequence[float], peer: Sequence[float]) -> float:
    """How many times the peer's figure: the median over rounds, each compared with the same round of the peer."""
    return median([mine / other for mine, other in zip(ours, peer, strict=True) if other > 0])


def slope(points: Sequence[tuple[float, float]]) -> float:
    """Growth of y for each unit of x, by least squares. 0 for fewer than two points."""
    if len(points) < 2:
        return 0.0
    return statistics.linear_regression([x for x, _ in points], [y for _, y in points]).slope


def thousands(value: float) -> str:
    """A count for a table: 1234567 is 1,235K."""
    if math.isnan(value):
        return "–"
    return f"{value / 1000:,.0f}K" if value >= 10_000 else f"{value:,.0f}"


def microseconds(value: float) -> str:
    """A time for a table."""
    if math.isnan(value):
        return "–"
    return f"{value:.0f}" if value < 10_000 else f"{value:,.0f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown; the first column is text, the others are figures."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (head, rule, *rows))
