"""What a worker should be doing, told from its place and queues.yaml. Plain values: nothing here touches a device."""

from __future__ import annotations

from collections.abc import Collection

import msgspec

from reef import keys
from reef.placement.model import Place, model_route, stage_name
from reef.topology import Pool, Topology

WAITS = "waits for a place: no pool was given to this device yet"


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker of one device should serve now."""

    pool: Pool | None
    """None: nothing."""
    model: str = ""
    tier: str = "pool"
    general: bool = True
    routes: tuple[str, ...] = ()
    resident: tuple[str, ...] = ()
    version: int = 0
    note: str = ""
    """Why it is not what the place says, for the operator."""

    def queues(self, node: str, models: Collection[str]) -> tuple[str, ...]:
        """What to consume, where these models are in memory: a model's jobs are not taken before it is."""
        if self.pool is None:
            return (keys.idle_queue(node),)
        routes = [keys.route_queue(self.pool.queue, route) for route in self.open_routes(models)]
        general = [self.pool.queue] if self.general else []
        return (keys.node_queue(self.pool.queue, node), *routes, *general)

    def open_routes(self, models: Collection[str]) -> tuple[str, ...]:
        """Its routes, without those of models that are not in memory."""
        known = {model_route(model) for model in models}
        prefix = model_route("")
        return tuple(route for route in self.routes if not route.startswith(prefix) or route in known)


def wanted(place: Place | None, own: Pool | None, topology: Topology) -> Wanted:
    """What this place asks of the worker of a device; `own` is the pool it belongs to for good, if any."""
    if place is None:
        return Wanted(pool=own, model=own.model) if own else Wanted(pool=None, tier="reserve", note=WAITS)
    pool, note = own, ""
    if own is None:
        pool = topology.pools.get(place.pool)
        if place.pool and pool is None:
            note = f"its place names pool {place.pool!r}, which queues.yaml does not have"
        elif pool is None:
            note = WAITS
    elif place.pool not in ("", own.name):
        note = f"queues.yaml gives this device to pool {own.name}; its place names {place.pool}, which is ignored"
    model = (place.model or pool.model) if pool else ""
    if place.tier == "stage" and pool is not None:
        model = stage_name(place)
    return Wanted(
        pool=pool,
        model=model,
        tier=place.tier if pool or own else "reserve",
        # jobs come to the first segment, which has the others work for them
        general=place.general and (place.tier != "stage" or place.stage == 0),
        routes=place.routes,
        resident=place.resident,
        version=place.version,
        note=note,
    )
