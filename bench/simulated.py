"""The simulated device at the paces the benches need."""

from __future__ import annotations

from bench.product import DATA
from workers.engines.simulated import SimulatedEngine

AT_ONCE = "simulated:token_ms=0"
"""Costs nothing: what is measured is everything else."""
QUICK = "simulated:token_ms=5"
"""200 tokens a second and stream, quicker than any model here."""
STEADY = "simulated"


def fastest() -> SimulatedEngine:
    """The engine of AT_ONCE, in this process."""
    DATA.mkdir(parents=True, exist_ok=True)
    return SimulatedEngine(AT_ONCE, context_tokens=4096, hang_s=60.0, trace_file=DATA / "simulated.trace")
