"""Which workers are there, judged from their reports. Times are this process's own: clocks of hosts may differ.

A worker writes its report every second. One that said nothing for SILENT_S counts as gone: two beats were missed. One
that is loading gets longer, since a driver or a library that is opened may hold up its whole process. A report that
somebody took away (a supervisor that saw the process die) counts as gone after REMOVED_S: so long a worker that is
started again, or an emptied broker, has to come back. A node never heard of is `unknown` until FIRST_WORD_S have
passed: after a start of everything nobody must be declared dead for starting slowly.

One that failed, or whose device is left alone after faults (`quarantined`) and has no CPU to do its work, speaks but
serves nothing: it counts as gone too, at once, and is back when it says that it serves.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import msgspec

from reef.contracts.nodes import Vitals

SILENT_S = 2.2
REMOVED_S = 1.2
LOADING_SILENT_S = 6.0
FIRST_WORD_S = 30.0
FAILED_REST_S = 30.0
"""One that failed (its place's model could not be loaded, say) is given nothing so long: asked again at once, it would
fail again and again, and take the jobs of its pool with it."""
SKEW_S = 1.0
"""How far the clock of another host may be off when its report is seen for the first time."""

Presence = Literal["alive", "gone", "unknown"]


class _Node(msgspec.Struct):
    vitals: Vitals
    heard: float
    """When its report was last seen to change, on our clock."""
    removed: float | None = None
    failed: float | None = None
    idle_since: float = 0.0


class Watch:
    """Remembers when each node was last heard. Not thread-safe. `speed` shortens all times (tests)."""

    def __init__(self, clock: Callable[[], float] = time.time, speed: float = 1.0) -> None:
        self._clock, self._speed = clock, speed
        self._nodes: dict[str, _Node] = {}
        self._began = clock()

    def see(self, reports: Mapping[str, Vitals]) -> None:
        """Take note of the reports as they stand now."""
        now = self._clock()
        for name, vitals in reports.items():
            known = self._nodes.get(name)
            if known is None:
                # a report that nobody renews stays in the broker, over a restart of everything too: its age tells
                if abs(now - vitals.at) < SILENT_S / self._speed + SKEW_S:
                    self._nodes[name] = _Node(vitals, now, idle_since=now)
                continue
            if vitals.at != known.vitals.at:
                known.heard, known.vitals, known.removed = now, vitals, None
            if vitals.running:
                known.idle_since = now
            if vitals.state == "failed":
                known.failed = now
        for name, known in self._nodes.items():
            if name not in reports and known.removed is None:
                known.removed = now

    def presence(self, node: str) -> Presence:
        """Whether the worker of this node is there."""
        now = self._clock()
        known = self._nodes.get(node)
        if known is None:
            return "unknown" if now - self._began < FIRST_WORD_S / self._speed else "gone"
        if known.vitals.state == "failed" or known.vitals.left_alone or self._rests(known, now):
            return "gone"
        if known.removed is not None and now - known.removed > REMOVED_S / self._speed:
            return "gone"
        busy_opening = known.vitals.state == "loading" or known.vitals.loading
        patience_s = LOADING_SILENT_S if busy_opening else SILENT_S
        return "alive" if now - known.heard <= patience_s / self._speed else "gone"

    def _rests(self, known: _Node, now: float) -> bool:
        return known.failed is not None and now - known.failed < FAILED_REST_S / self._speed

    def vitals(self, node: str) -> Vitals | None:
        """What it said last."""
        known = self._nodes.get(node)
        return known.vitals if known else None

    def idle_s(self, node: str) -> float:
        """How long it has had nothing to do, as far as this process has watched."""
        known = self._nodes.get(node)
        return self._clock() - known.idle_since if known else 0.0

    def serving(self) -> dict[str, Vitals]:
        """What those said that are there and take jobs."""
        return {
            name: known.vitals
            for name, known in self._nodes.items()
            if known.vitals.takes_jobs and known.removed is None and self.presence(name) == "alive"
        }

    def gone(self, nodes: Iterable[str]) -> list[str]:
        """Those of these nodes whose worker is not there."""
        return [node for node in nodes if self.presence(node) == "gone"]
