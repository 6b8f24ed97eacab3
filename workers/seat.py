"""Which device this process owns, and how an engine for it is made. Imports little: a worker that died is back soon."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import msgspec

from reef.placement.model import stage_of
from reef.ports import Engine
from reef.settings import Settings
from reef.topology import Device, Pool, Topology
from workers.devices.keeper import DeviceKeeper


@dataclass(frozen=True)
class Seat:
    """A worker process's own device."""

    settings: Settings
    """With `node` filled in."""
    topology: Topology
    device: Device
    own: Pool | None
    """The pool it belongs to for good; None: a strategy gives it out."""

    @cached_property
    def keeper(self) -> DeviceKeeper:
        """Opens the device, once for all engines, and watches it."""
        fallback = self.own.cpu_fallback if self.own else False
        return DeviceKeeper(self.settings, self.device, cpu_fallback=fallback)

    @property
    def node(self) -> str:
        """Name of this worker."""
        return self.settings.node

    @property
    def streams_max(self) -> int:
        """Jobs that may ever run here at once."""
        return self.own.streams if self.own else max(pool.streams for pool in self.topology.pools.values())

    @property
    def pools(self) -> dict[str, Pool]:
        """Pools it may come to serve."""
        return {self.own.name: self.own} if self.own else self.topology.pools

    def choose(self, pool: Pool, model: str) -> Engine:
        """An engine with this model (or a segment of one), not loaded yet, on the device as it could be opened.

        Raises EngineError with what to do next.
        """
        from workers.engines.select import choose_engine, choose_stage

        device = self.keeper.opened()
        if stage := stage_of(model):
            return choose_stage(self.settings, pool, device, msgspec.structs.replace(stage, node=self.node))
        return choose_engine(self.settings, msgspec.structs.replace(pool, model=model), device)

    def weight_bytes(self, pool: Pool, model: str) -> int:
        """Size of its weights, 0 where it is unknown. Raises EngineError where there is no such model."""
        from workers.engines.select import weight_bytes

        if stage_of(model):
            return 0
        return weight_bytes(self.settings, msgspec.structs.replace(pool, model=model), self.device)


def take_seat(settings: Settings, topology: Topology, pool: str, device: str) -> Seat:
    """The seat of this device; no pool: a device of the allocation. Raises KeyError naming what there is."""
    if pool:
        own = topology.pool(pool)
        found = own.device(device)
        return Seat(settings.changed(node=own.node(found)), topology, found, own)
    for given in topology.allocated:
        if device in (given.address, given.name):
            return Seat(settings.changed(node=given.node), topology, given, None)
    known = ", ".join(one.address for one in topology.allocated) or "none"
    raise KeyError(f"the allocation of queues.yaml has no device {device!r}; it has: {known}")
