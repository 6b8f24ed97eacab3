"""The strategies side by side for a model, devices and a load: repeated simulations, which one wins, and why."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence

import msgspec

from reef.planning.devices import DeviceSet
from reef.planning.models import PlannedModel
from reef.planning.simulate import Run, run
from reef.planning.strategies import STRATEGIES, Impossible, Layout, Strategy, lay_out
from reef.planning.workload import Load

RUNS = 5
SEED = 1
ALIKE = 0.03
"""Throughputs that differ by less are taken for equal: then the sooner first word decides."""
_STUDENT = {1: 12.71, 2: 4.30, 3: 3.18, 4: 2.78, 5: 2.57, 6: 2.45, 7: 2.36, 8: 2.31, 9: 2.26}
"""Student's t for 95 % (two-sided) by degrees of freedom; 1.96 beyond 29, 2.1 between."""


class Spread(msgspec.Struct, frozen=True):
    """Mean of repeated runs and half the width of its 95 % confidence interval."""

    mean: float
    half: float


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What a strategy does with a load."""

    strategy: Strategy
    impossible: str = ""
    """Why it cannot be used here; then the rest is empty."""
    units: int = 0
    stages: int = 0
    spares: int = 0
    held: bool = False
    ttft_p50_s: Spread = Spread(math.nan, 0.0)
    ttft_p95_s: Spread = Spread(math.nan, 0.0)
    wait_p95_s: Spread = Spread(math.nan, 0.0)
    tokens_per_s: Spread = Spread(0.0, 0.0)
    """Delivered under this load."""
    each_tokens_per_s: Spread = Spread(math.nan, 0.0)
    """Median pace of one reply."""
    most_tokens_per_s: float = 0.0
    """With every stream of every unit in use."""
    busy_share: Spread = Spread(0.0, 0.0)
    refused_share: float = 0.0
    failures: int = 0
    swaps: int = 0
    """These two over all runs."""


def compare(model: PlannedModel, devices: DeviceSet, load: Load, runs: int = RUNS, seed: int = SEED) -> list[Outcome]:
    """Every strategy with the same people."""
    return [outcome(strategy, model, devices, load, runs, seed) for strategy in STRATEGIES]


def outcome(
    strategy: Strategy, model: PlannedModel, devices: DeviceSet, load: Load, runs: int = RUNS, seed: int = SEED
) -> Outcome:
    """One strategy, simulated `runs` times."""
    try:
        layout = lay_out(strategy, model, devices, load)
    except Impossible as error:
        return Outcome(strategy=strategy, impossible=str(error))
    done = [run(layout, load, devices.devices, seed + number) for number in range(runs)]
    return _outcome(layout, done)


def _outcome(layout: Layout, done: Sequence[Run]) -> Outcome:
    def over(what: Callable[[Run], float]) -> Spread:
        return spread([what(one) for one in done])

    asked = sum(one.asked for one in done)
    return Outcome(
        strategy=layout.strategy,
        units=len(layout.units),
        stages=layout.stages,
        spares=layout.spares,
        held=layout.held,
        ttft_p50_s=over(lambda one: percentile(one.ttft_s, 0.5)),
        ttft_p95_s=over(lambda one: percentile(one.ttft_s, 0.95)),
        wait_p95_s=over(lambda one: percentile(one.wait_s, 0.95)),
        tokens_per_s=over(lambda one: one.tokens / one.span_s),
        each_tokens_per_s=over(lambda one: percentile(one.tokens_per_s_each, 0.5)),
        most_tokens_per_s=sum(unit.curve.tokens_per_s(unit.curve.streams) for unit in layout.units),
        busy_share=over(lambda one: one.busy_share),
        refused_share=sum(one.refused for one in done) / asked if asked else 0.0,
        failures=sum(one.failures for one in done),
        swaps=sum(one.swaps for one in done),
    )


def best(outcomes: Sequence[Outcome]) -> Outcome:
    """Who delivers most; among those that deliver about as much, who begins to answer first.

    Raises ValueError where no strategy is possible.
    """
    possible = [one for one in outcomes if not one.impossible]
    if not possible:
        raise ValueError("; ".join(f"{one.strategy}: {one.impossible}" for one in outcomes))
    most = max(one.tokens_per_s.mean for one in possible)
    near = [one for one in possible if one.tokens_per_s.mean >= (1 - ALIKE) * most]
    # equal in both: the one with more to take over from a failed device
    return min(near, key=lambda one: (round(one.ttft_p95_s.mean, 3), -one.spares, STRATEGIES.index(one.strategy)))


def why(winner: Outcome, outcomes: Sequence[Outcome], model: PlannedModel, devices: DeviceSet) -> str:
    """A sentence for a person: what separates the winner from the next, with the numbers."""
    others = [one for one in outcomes if not one.impossible and one is not winner]
    if not others:
        return "nothing else is possible: " + "; ".join(
            f"{o.strategy}: {o.impossible}" for o in outcomes if o.impossible
        )
    rival = best(others)
    parts = []
    if devices.kind == "edgetpu" and rival.stages != winner.stages:
        parts.append(_cut(winner, rival, model, devices))
    if rival.stages > winner.stages and rival.failures:
        parts.append(
            f"a failure stops {rival.stages} devices of {rival.strategy} at once ({rival.failures} in all runs), "
            f"{winner.stages} here"
        )
    if rival.swaps > winner.swaps:
        parts.append(f"{rival.strategy} moved models {rival.swaps} times")
    waits, rival_waits = winner.wait_p95_s.mean, rival.wait_p95_s.mean
    if rival_waits > waits + max(0.01, ALIKE * rival_waits):
        parts.append(f"p95 of waiting {seconds(waits)} against {seconds(rival_waits)} ({rival.strategy})")
    soon, later = winner.ttft_p95_s.mean, rival.ttft_p95_s.mean
    if not parts and soon < (1 - ALIKE) * later:
        parts.append(f"first words sooner, p95 {seconds(soon)} against {seconds(later)} ({rival.strategy})")
    if not parts and rival.spares < winner.spares:
        parts.append(
            f"as good as {rival.strategy}, with {winner.spares} devices, not {rival.spares}, spare for a failed one"
        )
    return "; ".join(parts) or f"as good as {rival.strategy}"


def _cut(winner: Outcome, rival: Outcome, model: PlannedModel, devices: DeviceSet) -> str:
    silicon = devices.silicon
    assert silicon is not None  # noqa: S101 - Edge TPUs have figures
    missing = [max(0.0, model.weight_bytes - one.stages * silicon.near_bytes) for one in (winner, rival)]
    text = f"a copy on {winner.stages} devices "
    text += f"fetches {megabytes(missing[0])} a token" if missing[0] else "holds all weights"
    return text + f", on {rival.stages} ({rival.strategy}) it fetches {megabytes(missing[1])}"


def spread(values: Sequence[float]) -> Spread:
    """Mean and half of the confidence interval; nan values (nothing happened in that run) are left out."""
    known = [value for value in values if not math.isnan(value)]
    if not known:
        return Spread(math.nan, 0.0)
    mean = statistics.fmean(known)
    if len(known) == 1:
        return Spread(mean, math.inf)
    freedom = len(known) - 1
    student = _STUDENT.get(freedom, 2.1 if freedom < 30 else 1.96)
    return Spread(mean, student * statistics.stdev(known) / math.sqrt(len(known)))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least this share of all does not exceed; nan where there is none."""
    if not values:
        return math.nan
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def seconds(value: float) -> str:
    """A time for people: three digits."""
    if math.isnan(value):
        return "-"
    if value < 1:
        return f"{value * 1000:.{1 if 0 < value < 0.00995 else 0}f} ms"
    return f"{value:.1f} s" if value < 100 else f"{value:,.0f} s"


def rate(value: float) -> str:
    """So many a second, for people: two or three digits."""
    if math.isnan(value):
        return "-"
    if value >= 99.95:
        return f"{value:,.0f}"
    return f"{value:.1f}" if value >= 9.995 else f"{value:.2f}" if value >= 0.0995 else f"{value:.3f}"


def megabytes(value: float) -> str:
    """Bytes for people."""
    return f"{value / 1e6:,.0f} MB" if value < 1e9 else f"{value / 1e9:.1f} GB"
