"""The controller: looks at devices and demand, lets the strategy decide, stores what changed and announces it.

One process leads (leader.py); others may run and only watch. Nothing it decides is remembered here: a controller that
begins finds the places as rows and goes on from them. What an operator decided it leaves alone until it is released.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

import redis

from reef import keys
from reef.allocation import Allocation
from reef.contracts.nodes import Vitals
from reef.ledger import Ledger
from reef.personas.store import list_personas
from reef.placement import dedicated, dynamic, pipeline
from reef.placement.demand import Demand
from reef.placement.leader import Leader
from reef.placement.model import Place
from reef.placement.operator import nodes_of
from reef.placement.presence import Watch
from reef.placement.store import Outdated, PlacementStore, same
from reef.placement.view import PoolSeen, Seen, Speaker, View
from reef.records.database import Database
from reef.topology import Device, Topology

log = logging.getLogger(__name__)

REMIND_EVERY_S = 2.0
"""A worker that does not say that it carries out the newest decision is told again: channels may lose a word."""


class Controller:
    """Decides about the devices that queues.yaml lets a strategy give out. Not thread-safe."""

    def __init__(
        self,
        topology: Topology,
        database: Database,
        client: redis.Redis,
        watch: Watch,
        holder: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`holder` names this process among those that may lead."""
        self._topology, self._client, self._watch, self._clock = topology, client, watch, clock
        self._database = database
        self._ledger = Ledger(database, clock)
        self._store = PlacementStore(database, clock)
        self._leader = Leader(database, "placement", holder, clock)
        self._demand = Demand(self._ledger, topology.pools)
        self._reminded: dict[str, float] = {}
        self._forgot = False

    def look(self) -> list[Place]:
        """One round: gives the decisions that were made. Raises sqlalchemy.exc.SQLAlchemyError, redis.RedisError."""
        if self._topology.allocation is None or not self._leader.holds():
            return []
        self._forget_others()
        view = self.view()
        places = decide_all(self._topology.allocation, view)
        changed = [place for place in places if not _stands(view, place)]
        try:
            made = self._store.put(changed) if changed else []
        except Outdated as outdated:
            log.info("somebody decided about %s meanwhile: looking again", outdated)
            return []
        for place in made:
            log.info("%s: %s", place.node, place.reason)
        self._announce({place.node: place for place in made}, view)
        return made

    def _forget_others(self) -> None:
        """Once: places of devices that queues.yaml does not have any more."""
        if not self._forgot:
            known = set(nodes_of(self._topology))
            self._store.forget([node for node in self._store.all() if node not in known])
            self._forgot = True

    def leave(self) -> None:
        """Let another controller lead at once."""
        self._leader.leave()

    def view(self) -> View:
        """What there is to be looked at now."""
        serving = self._watch.serving()
        needs = self._demand.needs()
        return View(
            devices=tuple(self._seen(device) for device in self._topology.allocated),
            pools={name: self._pool(name, serving) for name in self._topology.pools},
            places=self._store.all(),
            needs=needs,
            personas=tuple(Speaker(persona.id, persona.model) for persona in list_personas(self._database)),
            now=self._clock(),
        )

    def _seen(self, device: Device) -> Seen:
        vitals = self._watch.vitals(device.node)
        return Seen(
            node=device.node,
            host=device.host,
            presence=self._watch.presence(device.node),
            idle_s=self._watch.idle_s(device.node),
            resident=vitals.resident if vitals else (),
            able=self._topology.able(device),
        )

    def _pool(self, name: str, serving: Mapping[str, Vitals]) -> PoolSeen:
        pool = self._topology.pool(name)
        return PoolSeen(
            name=name,
            model=pool.model,
            streams=pool.streams,
            job_s=self._ledger.load(name).job_s,
            own=sum(pool.node(device) in serving for device in pool.devices),
            keeps=bool(pool.devices),
        )

    def _announce(self, made: Mapping[str, Place], view: View) -> None:
        now = self._clock()
        names = [*made, *(device.node for device in view.devices if self._must_be_reminded(device, view, made, now))]
        for node in names:
            self._reminded[node] = now
            self._client.publish(keys.PLACEMENT_CHANNEL, node)

    def _must_be_reminded(self, device: Seen, view: View, made: Mapping[str, Place], now: float) -> bool:
        vitals, place = self._watch.vitals(device.node), view.places.get(device.node)
        if not device.alive or vitals is None or place is None or device.node in made:
            return False
        late = vitals.place_version < place.version
        return late and now - self._reminded.get(device.node, 0.0) >= REMIND_EVERY_S


def decide_all(allocation: Allocation, view: View) -> list[Place]:
    """The place of every device, as the strategy of queues.yaml has it."""
    if allocation.strategy == "dedicated":
        return dedicated.wanted(allocation.dedicated, view)
    if allocation.strategy == "pipeline" and allocation.pipeline is not None:
        return pipeline.wanted(allocation.pipeline, view)
    return dynamic.wanted(allocation.dynamic, view)


def _stands(view: View, place: Place) -> bool:
    known = view.places.get(place.node)
    return known is not None and same(known, place) and known.decided_by == place.decided_by
