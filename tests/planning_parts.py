"""Small layouts for tests of the simulation."""

from __future__ import annotations

from reef.planning.curves import Batching, Curve
from reef.planning.strategies import Layout, Unit
from reef.planning.workload import Load

PLAIN = Batching(step_fixed_s=0.01, step_stream_s=0.0, streams=1)
"""One turn at a time, 10 ms a token, prompts for nothing."""


def layout(
    *curves: Curve, routes: tuple[int, ...] = (), spares: int = 0, swap_s: float = 0.1, movable: bool = False
) -> Layout:
    """Units that share one queue, or have the routes given."""
    units = tuple(
        Unit(devices=1, curve=curve, route=routes[place] if routes else 0, movable=movable)
        for place, curve in enumerate(curves)
    )
    return Layout(strategy="dynamic", units=units, spares=spares, swap_s=swap_s, by_persona=False, held=True)


def load(**fields: object) -> Load:
    """A load in which nothing fails, with what the test is about."""
    return Load(**({"device_mtbf_h": None, "personas": 1, "waiting_max": 100_000} | fields))  # type: ignore[arg-type]
