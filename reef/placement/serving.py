"""Which pools are served by whom, how many devices a pool has now, and which devices a job should go to.

queues.yaml gives a pool devices for good, a strategy gives out the others: only here are the two counted together.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from reef.contracts.jobs import JOBS
from reef.personas.store import Persona
from reef.placement.model import Place, model_route, persona_route
from reef.placement.store import PlacementStore
from reef.records.database import Database
from reef.topology import CHAT_POOL, Pool, Topology

FRESH_S = 1.0
"""Counts of devices are read again when they are older."""


def given_out(topology: Topology) -> frozenset[str]:
    """Pools that the strategy may give devices to."""
    allocation = topology.allocation
    if allocation is None:
        return frozenset()
    if allocation.strategy == "dedicated":
        return frozenset({CHAT_POOL, *(pool for pool, devices in allocation.dedicated.services.items() if devices)})
    if allocation.strategy == "pipeline" and allocation.pipeline is not None:
        return frozenset({allocation.pipeline.pool})
    return frozenset({job.POOL for job in JOBS} | set(allocation.dynamic.bulk_pools or ())) & topology.pools.keys()


def is_served(topology: Topology, name: str) -> bool:
    """Whether any device could ever serve this pool."""
    pool = topology.pools.get(name)
    return pool is not None and bool(pool.devices or name in given_out(topology))


def takes_jobs(place: Place) -> bool:
    """Whether jobs enter here: in a pipeline only at its first stage."""
    return bool(place.pool) and (place.general or bool(place.routes))


class Capacity:
    """How many devices and streams each pool has now. Safe to share between threads."""

    def __init__(self, topology: Topology, database: Database, clock: Callable[[], float] = time.monotonic) -> None:
        self._topology, self._clock = topology, clock
        self._store = PlacementStore(database)
        self._read_at = -FRESH_S
        self._placed: Counter[str] = Counter()

    def devices(self, pool: Pool) -> int:
        """Devices of this pool; one at least where a strategy may give it some."""
        if self._topology.allocation is None:
            return len(pool.devices)
        now = self._clock()
        if now - self._read_at >= FRESH_S:
            places = self._store.all()
            nodes = [device.node for device in self._topology.allocated]
            self._placed = Counter(places[node].pool for node in nodes if node in places and takes_jobs(places[node]))
            self._read_at = now
        found = len(pool.devices) + self._placed[pool.name]
        return found or int(pool.name in given_out(self._topology))

    def streams(self, pool: Pool) -> int:
        """Jobs that this pool can run at once."""
        return pool.streams * self.devices(pool)


def route_of(topology: Topology, persona: Persona) -> str | None:
    """Which devices of the chat pool should answer as this persona; None: any of them."""
    pool = topology.pool(CHAT_POOL)
    if topology.allocation is not None and topology.allocation.strategy == "dedicated":
        return persona_route(persona.id)
    return model_route(persona.model) if persona.model not in ("", pool.model) else None
