"""Arithmetic on measured samples. No input, no output."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence


def median(samples: Sequence[float]) -> float:
    """The middle sample; nan where there is none."""
    return statistics.median(samples) if samples else math.nan


def percentile(samples: Sequence[float], share: float) -> float:
    """The smallest sample that at least this share of all samples does not exceed; nan where there is none."""
    if not samples:
        return math.nan
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def ms(seconds: float) -> str:
    """Seconds as milliseconds for a table."""
    if math.isnan(seconds):
        return "–"
    value = seconds * 1000
    return f"{value:.1f} ms" if abs(value) < 100 else f"{value:.0f} ms"


def mb(size_bytes: float) -> str:
    """Bytes as megabytes for a table."""
    return f"{size_bytes / 1e6:.0f} MB"


def ratio(value: float, peer: float) -> str:
    """How many times the peer's figure."""
    return f"{value / peer:.2f}×" if peer else "–"
