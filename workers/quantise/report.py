"""What a quantisation gained and cost: values that every format fills. Measures nothing itself."""

from __future__ import annotations

from pathlib import Path

import msgspec

CALIBRATION_SAMPLES_MAX = 512
"""More samples make calibration longer, not better."""


class QuantiseError(RuntimeError):
    """A model cannot be quantised like that. The message says why, and what helps."""


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """One file. Quality is None where nobody can say; of the source it is 1 where the two are compared."""

    size_bytes: int
    speed: float
    quality: float | None = None


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """A source and what was made of it."""

    before: Measured
    after: Measured
    speed_unit: str
    quality_name: str
    lower_is_better: bool = False
    notes: tuple[str, ...] = ()


def missing(packages: str, what: str) -> QuantiseError:
    """A package that only this needs is not installed."""
    return QuantiseError(f"{what} needs packages that are not installed here: pip install {packages}")


def part_of(target: Path) -> Path:
    """Where a file is written until it is whole."""
    return target.with_name(f".{target.stem}.part{target.suffix}")
