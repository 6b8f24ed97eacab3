"""Strategy `dynamic`: devices move to where the demand is.

Two things are decided about a device. Its *tier* (hot, warm, cold) changes only when a device dies or comes back. Its
*work* is what it serves now: its tier's own, or what it was lent to. A work whose next job waits too long gets one more
device; a lent device that was idle long enough goes home. Between the two lies a gap, and a device that moved stays a
while, so that noise moves nothing (tests hold that).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from reef.abilities import ABLE, BEST
from reef.allocation import Dynamic
from reef.placement.model import Place, Tier, model_route
from reef.placement.view import MODEL_PREFIX, RESIDENT_MAX, Need, Seen, View, decide
from reef.topology import CHAT_POOL

BULK_POOLS = ("embed", "index")
RESIDENT_LEAD = 2
"""A model takes the place of another in the memory of warm devices when it was asked for so many times as often."""


class Work(NamedTuple):
    """What a device can serve."""

    pool: str
    model: str = ""
    """Empty: the pool's own."""

    @property
    def words(self) -> str:
        return f"{self.model} ({self.pool})" if self.model else self.pool


class Load(NamedTuple):
    """How long a work is waited for."""

    queued: int = 0
    waited_s: float = 0.0
    recent: int = 0
    idle: bool = True


def wanted(plan: Dynamic, view: View) -> list[Place]:
    """The place of every device."""
    return _Round(plan, view).places()


class _Round:
    """One look at everything."""

    def __init__(self, plan: Dynamic, view: View) -> None:
        self.plan, self.view = plan, view
        named = BULK_POOLS if plan.bulk_pools is None else plan.bulk_pools
        self.bulk = [pool for pool in named if pool in view.pools]
        self.loads = self._loads()
        self.default = Work(CHAT_POOL)
        present = [device for device in view.free() if not device.gone]
        self.absent = [device for device in view.free() if device.gone]
        self.tiers = self._tiers(present)
        self.works: dict[str, Work] = {}
        self.reasons: dict[str, str] = {}
        self.seen = {device.node: device for device in present}
        for place in view.kept():
            self.works[place.node] = self._work_of(place)
        self._keep_works()
        self._balance()

    # --- demand

    def _loads(self) -> dict[Work, Load]:
        loads: dict[Work, Load] = {}
        for need in self.view.needs:
            work, known = self._work_for(need), loads.get(self._work_for(need), Load())
            loads[work] = Load(
                known.queued + need.queued,
                max(known.waited_s, need.waited_s),
                known.recent + need.recent,
                known.idle and not need.queued and not need.running,
            )
        return loads

    def _work_for(self, need: Need) -> Work:
        model = need.route.removeprefix(MODEL_PREFIX) if need.route.startswith(MODEL_PREFIX) else ""
        return self._named(need.pool, model)

    def _named(self, pool: str, model: str) -> Work:
        known = self.view.pools.get(pool)
        return Work(pool, "" if known is not None and model == known.model else model)

    def _work_of(self, place: Place) -> Work:
        return self._named(place.pool, place.model)

    def _load(self, work: Work) -> Load:
        return self.loads.get(work, Load())

    def _serving(self, work: Work) -> int:
        """Devices for a work, those of queues.yaml among them."""
        pool = self.view.pools.get(work.pool)
        own = pool.own if pool is not None and not work.model else 0
        return own + sum(one == work for one in self.works.values())

    def _wait_s(self, work: Work) -> float:
        """How long the next job of a work would wait; endless where nobody serves it."""
        load, devices = self._load(work), self._serving(work)
        if not load.queued:
            return 0.0
        if not devices:
            return math.inf
        pool = self.view.pools[work.pool]
        estimate_s = (pool.job_s or 0.0) * load.queued / (devices * pool.streams)
        # a device that is on its way is in the estimate, but those who wait do not know of it yet
        return estimate_s if self._arriving(work) else max(estimate_s, load.waited_s)

    def _arriving(self, work: Work) -> bool:
        return any(
            one == work and (node in self.reasons or self.view.stays(node) < self.plan.settle_s)
            for node, one in self.works.items()
            if node in self.seen
        )

    # --- tiers

    def _tiers(self, present: Sequence[Seen]) -> dict[str, Tier]:
        """Each device keeps its tier where there is room; empty seats are filled from the tier below."""
        able = [device for device in present if device.serves(CHAT_POOL)]
        others = min(len(present) - self._cold_min(len(present)), len(able))
        hot = min(self.plan.hot, others)
        rooms: dict[Tier, int] = {"hot": hot, "warm": min(self.plan.warm, others - hot)}
        rooms["cold"] = len(present) - sum(rooms.values())
        tiers: dict[str, Tier] = {device.node: "cold" for device in present if not device.serves(CHAT_POOL)}
        left = rooms | {"cold": rooms["cold"] - len(tiers)}
        for device in sorted(able, key=lambda one: self.view.place(one.node).decided_at):
            tier = self.view.place(device.node).tier
            if left.get(tier, 0) > 0:
                tiers[device.node] = tier
                left[tier] -= 1
        loose = [device for device in able if device.node not in tiers]
        loose.sort(key=lambda device: device.rank(CHAT_POOL))
        steps: tuple[tuple[Tier, tuple[Tier, ...]], ...] = (
            ("hot", ("warm", "cold")),
            ("warm", ("cold",)),
            ("cold", ()),
        )
        for tier, below in steps:
            while left[tier]:
                node = self._promoted(tiers, loose, below)
                if (old := tiers.get(node)) is not None:
                    left[old] += 1
                tiers[node] = tier
                left[tier] -= 1
        return tiers

    def _promoted(self, tiers: dict[str, Tier], loose: list[Seen], below: Iterable[Tier]) -> str:
        """Who takes an empty seat: a device that has none, else one of the tiers below."""
        for tier in below:
            found = sorted((node for node, one in tiers.items() if one == tier), key=self._index)
            found = [node for node in found if self._device(node).serves(CHAT_POOL)]
            alive = [node for node in found if self._device(node).alive]
            if alive or (found and not loose):
                return (alive or found)[0]
        return loose.pop(0).node

    def _index(self, node: str) -> int:
        return next(place for place, device in enumerate(self.view.devices) if device.node == node)

    def _device(self, node: str) -> Seen:
        return self.view.devices[self._index(node)]

    # --- works

    def _keep_works(self) -> None:
        """What each device does goes on; one without work gets that of its tier."""
        idle = []
        for node, tier in self.tiers.items():
            place = self.view.place(node)
            work = self._work_of(place)
            fits = bool(place.pool) and place.pool in self.view.pools and place.tier == tier
            # a device that moved up leaves bulk work behind; whatever else it did it goes on with
            rose = bool(place.pool) and place.tier == "warm" and tier == "hot"
            able = self._device(node).serves(place.pool) if place.pool else not self._home_pools(self._device(node))
            fits = fits or (not place.pool and place.tier == tier)  # it rests
            if able and (fits or rose) and not (tier == "hot" and work.pool in self.bulk):
                self.works[node] = work
            else:
                idle.append(node)
        for node in idle:
            self.works[node] = self._home(node)
            self.reasons[node] = self._home_reason(node)

    def _home(self, node: str) -> Work:
        tier = self.tiers[node]
        if tier == "hot":
            return self._missed()
        if tier == "warm":
            return self.default
        # bulk pools in turn, those without any device first
        pools = self._home_pools(self._device(node))
        homes = [Work(pool) for pool in pools] or [Work("")]
        return min(homes, key=lambda work: (self._serving(work), homes.index(work)))

    def _home_pools(self, device: Seen) -> list[str]:
        """What a cold device does: bulk work; else what its kind was made for; none where its kind can do nothing."""
        bulk = [pool for pool in self.bulk if device.serves(pool) and device.rank(pool) <= ABLE]
        made_for = [pool for pool in self.view.pools if pool != CHAT_POOL and device.rank(pool) == BEST]
        perhaps = [pool for pool in self.bulk if device.serves(pool)]
        return bulk or made_for or perhaps or [CHAT_POOL] * device.serves(CHAT_POOL)

    def _missed(self) -> Work:
        """The work that has the fewest devices for what it was asked; the pool's own model is never without one."""
        if not self._serving(self.default):
            return self.default
        asked = [w for w in self.loads if w.pool == CHAT_POOL] or [self.default]
        return max(asked, key=lambda w: ((self._load(w).recent + 1) / (self._serving(w) + 1), w == self.default))

    def _balance(self) -> None:
        """Lend devices to works that wait, send those home that had nothing to do."""
        for work in sorted(self.loads, key=self._urgency, reverse=True):
            while self._wait_s(work) > self.plan.up_wait_s:
                node = self._donor(work)
                if node is None:
                    break
                waits = self._load(work)
                self.works[node] = work
                self.reasons[node] = (
                    f"Moved to {work.words}: {waits.queued} jobs waited, the next for {waits.waited_s:.1f} s."
                )
        for node, work in list(self.works.items()):
            if node in self.seen and self._goes_home(node, work):
                self.works[node] = self._home(node)
                self.reasons[node] = f"Back from {work.words}: nothing to do there for {self.plan.down_idle_s:g} s."

    def _urgency(self, work: Work) -> tuple[bool, float]:
        return work.pool not in self.bulk, self._wait_s(work)

    def _donor(self, work: Work) -> str | None:
        """The device that is missed least; None where all are needed where they are."""
        able = [node for node in self.works if self._may_come(node, work) and self._may_leave(node, work)]
        if not able:
            return None
        return min(able, key=lambda node: (self._cost(node, work), self._index(node)))

    def _may_come(self, node: str, work: Work) -> bool:
        """Whether a device of its kind can do this work."""
        return node in self.seen and self.seen[node].serves(work.pool)

    def _cost(self, node: str, work: Work) -> tuple[int, int, bool]:
        tier = {"warm": 0, "cold": 1, "hot": 2}[self.tiers[node]]
        return tier, self.seen[node].rank(work.pool), work.model not in ("", *self.seen[node].resident)

    def _may_leave(self, node: str, work: Work) -> bool:
        current = self.works[node]
        if current == work or not self.seen[node].alive or self.view.stays(node) < self.plan.settle_s:
            return False
        if node in self.reasons:  # decided about in this round
            return False
        if not current.pool:
            return True
        idle = self._idle(node)
        if work.pool in self.bulk:
            return self._may_leave_for_bulk(current, work, idle)
        if self._serving(current) == 1 and (current == self.default or self._load(current).queued):
            return False
        if current.pool in self.bulk:
            return self._bulk_devices() > self._bulk_floor()
        if self.tiers[node] == "hot":
            return idle
        return idle or (current == self.default and self._wait_s(current) <= self.plan.up_wait_s)

    def _may_leave_for_bulk(self, current: Work, work: Work, idle: bool) -> bool:
        unserved = not self._serving(work)
        if current.pool in self.bulk:
            return idle or (unserved and not self._load(current).queued) or self._turns(current, work)
        # nobody is cold: bulk work gets one of those that serve what comes
        spare = current == self.default and self._serving(current) > 1
        return unserved and not self._bulk_devices() and spare

    def _turns(self, current: Work, work: Work) -> bool:
        """Fewer cold devices than bulk pools: they take turns."""
        return not self._serving(work) and self._serving(current) > 0 and len(self.bulk) > self._bulk_devices()

    def _idle(self, node: str) -> bool:
        return self.seen[node].idle_s >= self.plan.down_idle_s and self.view.stays(node) >= self.plan.down_idle_s

    def _goes_home(self, node: str, work: Work) -> bool:
        """Lent devices go home; hot ones stay with the model that they have loaded."""
        tier = self.tiers[node]
        if tier == "hot" or node in self.reasons or not self.seen[node].alive:
            return False
        homes = [Work(pool) for pool in self._home_pools(self.seen[node])] or [Work("")]
        at_home = work == self.default if tier == "warm" else work.pool in self.bulk or not self.bulk or work in homes
        return not at_home and self._idle(node) and not self._load(work).queued

    def _bulk_devices(self) -> int:
        return sum(work.pool in self.bulk for node, work in self.works.items() if node in self.seen)

    def _bulk_floor(self) -> int:
        """So many never leave bulk work."""
        cold = [self.seen[node] for node, tier in self.tiers.items() if tier == "cold"]
        able = sum(any(pool in self.bulk for pool in self._home_pools(device)) for device in cold)
        return min(able, self._cold_min(len(self.tiers)))

    def _cold_min(self, present: int) -> int:
        """The share of bulk, as far as the plan has cold devices at all: deaths do not eat it up."""
        planned = len(self.view.free()) - self.plan.hot - self.plan.warm
        return max(0, min(planned, math.ceil(self.plan.bulk_share * present), present - 1))

    # --- places

    def places(self) -> list[Place]:
        """Every device's place."""
        resident = self._resident()
        places = self.view.kept()
        for node, tier in self.tiers.items():
            work = self.works[node]
            known = self.view.place(node)
            told = known.reason if known.tier == tier else ""
            reason = self.reasons.get(node) or told or self._home_reason(node)
            kept: tuple[str, ...] = ()
            if tier == "warm":
                own = self.view.pools[CHAT_POOL].model
                kept = tuple(model for model in (own if work.model else "", *resident) if model not in ("", work.model))
            places.append(
                decide(
                    self.view,
                    node,
                    reason,
                    pool=work.pool,
                    model=work.model,
                    tier=tier,
                    general=bool(work.pool) and not work.model,
                    routes=(model_route(work.model),) if work.model else (),
                    resident=kept[:RESIDENT_MAX],
                )
            )
        for device in self.absent:
            reason = "Silent, or out of use: cold when it comes back, and others have taken its place."
            pool = (self._home_pools(device) or [""])[0]
            places.append(decide(self.view, device.node, reason, pool=pool, tier="cold", general=bool(pool)))
        return places

    def _home_reason(self, node: str) -> str:
        pool = self.works[node].pool
        cold = "Cold: bulk work until it is needed elsewhere."
        if not pool:
            cold = "Rests: bulk work and chats are nothing for a device of its kind."
        elif self.bulk and pool not in self.bulk:
            cold = f"Cold: serves {pool}, since bulk work is nothing for a device of its kind."
        return {
            "hot": "Hot: always loaded with what is asked for most.",
            "warm": "Warm: serves what comes, and holds the next models in memory.",
        }.get(self.tiers[node], cold)

    def _resident(self) -> list[str]:
        """The models that warm devices hold: those asked for most, changed only for one asked for far more."""
        asked: Counter[str] = Counter()
        for persona in self.view.personas:
            if (work := self._named(CHAT_POOL, persona.model)).model:
                asked[work.model] += 0
        for work, load in self.loads.items():
            if work.pool == CHAT_POOL and work.model:
                asked[work.model] += load.recent + load.queued
        now = Counter(m for p in self.view.places.values() if p.tier == "warm" for m in p.resident if m in asked)
        held = [model for model, _ in now.most_common(RESIDENT_MAX)]
        for model, times in sorted(asked.items(), key=lambda item: (-item[1], item[0])):
            if model in held:
                continue
            if len(held) < RESIDENT_MAX:
                held.append(model)
                continue
            least = min(held, key=lambda one: asked[one])
            if times > RESIDENT_LEAD * asked[least]:
                held[held.index(least)] = model
        return sorted(held)
