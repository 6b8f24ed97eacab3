"""Discrete-event simulation of a reef (simpy): people ask, turns queue as in the product, units serve, devices fail.

As in the product: one queue for each route with a limit, a session's next turn goes to the unit that holds its prompt
cache if that has room, a turn of a failed unit begins again before those that wait, a model moves to where turns wait
longest. What is simulated in virtual time takes the same decisions as what runs; it shares no code with it.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from random import Random

import msgspec
import simpy

from reef.planning.strategies import SETTLE_S, UP_WAIT_S, Layout
from reef.planning.units import ServingUnit, Steps, Turn
from reef.planning.workload import Draws, Load

OVERHEAD_S = 0.005
"""From a frame sent to the device and from its first text to the client: `make bench BENCH="overhead"`, median."""
FAILOVER_S = 3.0
"""Until work of a dead device goes on elsewhere, as promised in docs/operations.md; loading the model comes on top."""
RETRY_S = 1.0
"""Who is refused comes back after this at the soonest: the least Retry-After."""
LOOK_EVERY_S = 0.5
"""How often the dynamic strategy compares queues."""
WARM_CYCLES, CYCLES, SPAN_MIN_S = 3, 20, 300.0
OPEN_TURNS = 2_000
"""Of a run with open arrivals."""
ROUNDING_TOKENS = 1e-6
"""What is left of nothing after many sums of fractions of tokens."""


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """What happened after the warm-up of one run. Times are virtual seconds."""

    span_s: float
    ttft_s: tuple[float, ...]
    """Of turns asked in the span; one that was not answered to its end counts as long as it waited."""
    wait_s: tuple[float, ...]
    tokens: float
    busy_share: float
    asked: int
    completed: int
    refused: int
    waiting: int
    running: int
    """These five over the whole run: asked = completed + refused + waiting + running."""
    failures: int
    swaps: int
    tokens_per_s_each: tuple[float, ...]
    """Pace of each reply that ended in the span, from its first word to its last."""


def run(layout: Layout, load: Load, devices: int, seed: int, span_s: float | None = None) -> Run:
    """Simulate once. The same seed gives the same people and lengths for every layout."""
    warm_s, auto_s = spans(layout, load, devices)
    return _Simulation(layout, load, devices, seed).play(warm_s, span_s or auto_s)


def spans(layout: Layout, load: Load, devices: int) -> tuple[float, float]:
    """How long to warm up and to watch, from a rough idea of how long a turn takes."""
    unit = layout.units[0]
    talkers = load.talkers(devices) if load.turns_per_s is None else len(layout.units)
    each = max(1, round(talkers / len(layout.units)))
    at_once = min(each, unit.curve.streams)
    turn_s = (unit.curve.prompts_s([load.prompt]) + load.reply * unit.curve.step_s(at_once)) * each / at_once
    cycle_s = turn_s + load.think_s
    if load.turns_per_s is None:
        return WARM_CYCLES * cycle_s, max(SPAN_MIN_S, CYCLES * cycle_s)
    return WARM_CYCLES * cycle_s, max(SPAN_MIN_S, CYCLES * turn_s, OPEN_TURNS / load.turns_per_s)


class _Simulation:
    def __init__(self, layout: Layout, load: Load, devices: int, seed: int) -> None:
        self.layout, self.load, self.devices = layout, load, devices
        self.draws = Draws(load, seed)
        self.env = simpy.Environment()
        self.units = [ServingUnit(self.env, plan, self._ended) for plan in layout.units]
        self.queues: dict[int, deque[Turn]] = {}
        self.spares = layout.spares
        self.turns: list[Turn] = []
        self.counts: Counter[str] = Counter()
        self.heard: dict[Turn, simpy.Event] = {}
        self.caches: dict[int, ServingUnit] = {}
        self.sessions = itertools.count()

    def play(self, warm_s: float, span_s: float) -> Run:
        env = self.env
        if self.load.turns_per_s is None:
            for _ in range(self.load.talkers(self.devices)):
                env.process(self._talk(next(self.sessions)))
        else:
            env.process(self._arrive())
        if any(unit.plan.movable for unit in self.units):
            env.process(self._control())
        if self.load.device_mtbf_h is not None:
            for place, unit in enumerate(self.units):
                env.process(self._break(place, unit))
        env.run(until=warm_s)
        tokens, busy_s = self._made()
        for unit in self.units:
            unit.begin_counting()
        env.run(until=warm_s + span_s)
        tokens_end, busy_end_s = self._made()
        held = sum(unit.plan.devices for unit in self.units)
        return self._report(warm_s, span_s, tokens_end - tokens, (busy_end_s - busy_s) / (span_s * held))

    def _made(self) -> tuple[float, float]:
        made = [(unit.made(), unit.plan.devices) for unit in self.units]
        return sum(tokens for (tokens, _), _ in made), sum(busy_s * devices for (_, busy_s), devices in made)

    def _report(self, warm_s: float, span_s: float, tokens: float, busy_share: float) -> Run:
        end = warm_s + span_s
        seen = [turn for turn in self.turns if turn.asked >= warm_s]
        ended = [turn for turn in self.turns if turn.ended is not None and turn.ended >= warm_s and turn.reply > 1]
        return Run(
            span_s=span_s,
            ttft_s=tuple(_until(turn.first, end) - turn.asked for turn in seen),
            wait_s=tuple(_until(turn.started, end) - _until(turn.queued, end) for turn in seen),
            tokens=tokens if abs(tokens) > ROUNDING_TOKENS else 0.0,
            busy_share=busy_share,
            asked=self.counts["asked"],
            completed=self.counts["completed"],
            refused=self.counts["refused"],
            waiting=sum(len(queue) for queue in self.queues.values()),
            running=sum(unit.running for unit in self.units),
            failures=self.counts["failures"],
            swaps=self.counts["swaps"],
            tokens_per_s_each=tuple(_pace(turn) for turn in ended),
        )

    # --- people

    def _talk(self, session: int) -> Steps:
        numbers = self.draws.of(f"conversation {session}")
        persona = self.draws.persona(numbers)
        yield self.env.timeout(numbers.random() * self.load.think_s)
        while True:
            asked = self.env.now
            prompt, reply = self._lengths(numbers)
            yield self.env.timeout(OVERHEAD_S)
            heard = self._ask(self._turn(session, persona, prompt, reply, asked))
            yield heard or self.env.timeout(RETRY_S)
            if self.load.think_s:
                yield self.env.timeout(numbers.expovariate(1 / self.load.think_s))

    def _arrive(self) -> Steps:
        numbers = self.draws.of("turns")
        while True:
            yield self.env.timeout(self.draws.gap_s())
            for _ in range(self.load.burst):
                persona = self.draws.persona(numbers)
                prompt, reply = self._lengths(numbers)
                self._ask(self._turn(next(self.sessions), persona, prompt, reply, self.env.now))

    def _lengths(self, numbers: Random) -> tuple[float, float]:
        draw = self.draws.length
        return draw(numbers, self.load.prompt, 0.0), draw(numbers, self.load.reply, 1.0)

    def _turn(self, session: int, persona: int, prompt: float, reply: float, asked: float) -> Turn:
        route = persona if self.layout.by_persona else persona % self.load.models
        return Turn(session=session, persona=persona, route=route, prompt=prompt, reply=reply, asked=asked)

    # --- queues

    def _ask(self, turn: Turn) -> simpy.Event | None:
        """An event that comes with the end of the reply; None where the turn was refused."""
        self.counts["asked"] += 1
        turn.queued = self.env.now
        unit = self._free_unit(turn)
        if unit is None and sum(len(queue) for queue in self.queues.values()) >= self.load.waiting_max:
            self.counts["refused"] += 1
            return None
        self.turns.append(turn)
        self.heard[turn] = heard = self.env.event()
        if unit is not None:
            self._begin(unit, turn)
        else:
            self.queues.setdefault(turn.route, deque()).append(turn)
        return heard

    def _free_unit(self, turn: Turn) -> ServingUnit | None:
        cached = self.caches.get(turn.session)
        if cached is not None and cached.room and cached.route == turn.route:
            return cached
        able = [unit for unit in self.units if unit.route == turn.route and unit.room]
        # whoever has waited longest for work is the first the broker gives some
        return min(able, key=lambda unit: unit.taken_at, default=None)

    def _begin(self, unit: ServingUnit, turn: Turn) -> None:
        self.caches[turn.session] = unit
        unit.take(turn)

    def _pull(self, unit: ServingUnit) -> None:
        queue = self.queues.get(unit.route)
        while queue and unit.room:
            self._begin(unit, queue.popleft())

    def _ended(self, unit: ServingUnit, turn: Turn) -> None:
        self.counts["completed"] += 1
        self.heard.pop(turn).succeed()
        self._pull(unit)

    # --- moving models

    def _control(self) -> Steps:
        while True:
            yield self.env.timeout(LOOK_EVERY_S)
            for route, queue in self.queues.items():
                if queue and self.env.now - queue[0].asked > UP_WAIT_S:
                    unit = min(self._movable(route), key=lambda one: one.running, default=None)
                    if unit is not None:
                        self.env.process(self._move(unit, route))

    def _movable(self, wanted: int) -> Iterator[ServingUnit]:
        for unit in self.units:
            settled = self.env.now - unit.moved_at >= SETTLE_S
            needed = bool(self.queues.get(unit.route))
            if unit.plan.movable and unit.up and not unit.draining and settled and unit.route != wanted and not needed:
                yield unit

    def _move(self, unit: ServingUnit, route: int) -> Steps:
        unit.draining, unit.moved_at = True, self.env.now
        while not unit.idle:
            yield self.env.timeout(LOOK_EVERY_S)
        unit.route = route
        self.counts["swaps"] += 1
        yield self.env.timeout(self.layout.swap_s)
        unit.draining, unit.moved_at = False, self.env.now
        self._pull(unit)

    # --- failures

    def _break(self, place: int, unit: ServingUnit) -> Steps:
        numbers = self.draws.of(f"failures of {place}")
        rate_per_s = unit.plan.devices / ((self.load.device_mtbf_h or 0.0) * 3600)
        while True:
            yield self.env.timeout(numbers.expovariate(rate_per_s))
            self.counts["failures"] += 1
            lost = unit.fail()
            queue = self.queues.setdefault(unit.route, deque())
            queue.extendleft(reversed(lost))
            for other in self.units:
                if other.route == unit.route:
                    self._pull(other)
            if self.spares:
                self.spares -= 1
                self.env.process(self._mend())
                yield self.env.timeout(FAILOVER_S + self.layout.swap_s)
            else:
                yield self.env.timeout(self.load.repair_s + self.layout.swap_s)
            unit.up = True
            self._pull(unit)

    def _mend(self) -> Steps:
        yield self.env.timeout(self.load.repair_s)
        self.spares += 1


def _until(moment: float | None, end: float) -> float:
    return end if moment is None else moment


def _pace(turn: Turn) -> float:
    assert turn.first is not None and turn.ended is not None  # noqa: S101, PT018 - only turns that ended come here
    return (turn.reply - 1) / max(turn.ended - turn.first, 1e-9)
