"""Which pools are served by whom, how many devices a pool has now, and which devices a job should go to.

queues.yaml gives a pool devices for good, a strategy gives out the others: only here are the two counted together.
"""

from __future__ import annotations

import socket
import time
from collections import Counter
from collections.abc import Callable

import sqlalchemy as sa

from reef.contracts.jobs import JOBS
from reef.personas.store import Persona
from reef.placement.model import Place, model_route, persona_route
from reef.placement.store import PlacementStore
from reef.records.database import Database
from reef.records.tables import devices
from reef.topology import CHAT_POOL, Device, Pool, Topology

FRESH_S = 1.0
"""Counts of devices are read again when they are older."""


def given_out(topology: Topology) -> frozenset[str]:
    """Pools that the strategy may give devices to: none that no device of the allocation can serve."""
    able = {pool for device in {one.kind: one for one in topology.allocated}.values() for pool in topology.able(device)}
    return frozenset(_asked(topology) & able)


def _asked(topology: Topology) -> set[str]:
    allocation = topology.allocation
    if allocation is None:
        return set()
    if allocation.strategy == "dedicated":
        return {CHAT_POOL, *(pool for pool, devices in allocation.dedicated.services.items() if devices)}
    if allocation.strategy == "pipeline" and allocation.pipeline is not None:
        return {allocation.pipeline.pool}
    return {job.POOL for job in JOBS} | set(allocation.dynamic.bulk_pools or ())


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
        self._left_alone: Counter[str] = Counter()

    def devices(self, pool: Pool) -> int:
        """Devices of this pool; one at least where a strategy may give it some."""
        if self._topology.allocation is None:
            return len(pool.devices)
        self._look()
        found = len(pool.devices) + self._placed[pool.name]
        return found or int(pool.name in given_out(self._topology))

    def streams(self, pool: Pool) -> int:
        """Jobs that this pool can run at once, without devices that are left alone and that nothing stands in for."""
        self._look()
        return pool.streams * max(0, self.devices(pool) - self._left_alone[pool.name])

    def _look(self) -> None:
        now = self._clock()
        if now - self._read_at < FRESH_S:
            return
        topology, places = self._topology, self._store.all()
        given = {device: places[device.node] for device in topology.allocated if device.node in places}
        taken = {device: place.pool for device, place in given.items() if takes_jobs(place)}
        alone = self._out_of_use()
        self._placed = Counter(taken.values())
        self._left_alone = Counter(pool for device, pool in taken.items() if _known_as(device) in alone)
        for pool in topology.pools.values():
            if not pool.cpu_fallback:
                self._left_alone[pool.name] += sum(_known_as(device) in alone for device in pool.devices)
        self._read_at = now

    def _out_of_use(self) -> set[tuple[str, str]]:
        """Machine and name of the devices that are not opened again yet."""
        query = sa.select(devices.c.host, devices.c.name).where(devices.c.quarantined_until > time.time())
        with self._store.database.read() as connection:
            return {(host.partition(".")[0], name) for host, name in connection.execute(query)}


def _known_as(device: Device) -> tuple[str, str]:
    return device.host or socket.gethostname().partition(".")[0], device.name


def route_of(topology: Topology, persona: Persona) -> str | None:
    """Which devices of the chat pool should answer as this persona; None: any of them."""
    pool = topology.pool(CHAT_POOL)
    if topology.allocation is not None and topology.allocation.strategy == "dedicated":
        return persona_route(persona.id)
    return model_route(persona.model) if persona.model not in ("", pool.model) else None
