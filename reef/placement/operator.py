"""What an operator decides about devices: move one, load a model on some, take that back. The one place that does it.

The API, the page, the model manager and the command line all come here. A decision stands until it is released, over
every restart; the controller works around it. A device of a pool that is released does again what queues.yaml says,
one that is given out goes on with what it does until its strategy decides.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from reef.models import fitting
from reef.models.errors import ModelError, ModelInUse, NotLoaded
from reef.models.store import ModelStore
from reef.placement.model import Place, Tier, model_route, persona_route
from reef.placement.store import QUEUES_FILE, Outdated, PlacementStore
from reef.placement.view import OPERATOR
from reef.topology import CHAT_POOL, Device, Pool, Topology

RELEASED = "released"
TRIES_MAX = 5
"""Somebody else may decide about the same node at the same moment."""
Change = Callable[[Place], Place]


class NotMovable(ValueError):
    """This cannot be done with this device; the message says why and what can."""


class UnknownDevice(NotMovable):
    """queues.yaml has no such device."""


class UnknownPool(NotMovable):
    """queues.yaml has no such pool."""


class NothingDecided(NotMovable):
    """No operator's decision stands there."""


class Decisions:
    """Safe to share between threads. Every method raises Outdated where others keep deciding about the same node."""

    def __init__(
        self,
        places: PlacementStore,
        topology: Topology,
        models: ModelStore,
        announce: Callable[[Sequence[str]], None] = lambda _nodes: None,
    ) -> None:
        """`announce` tells workers to look at their places."""
        self._places, self._topology, self._models, self._announce = places, topology, models, announce

    def move(self, node: str, *, pool: str = "", model: str = "", persona: str = "", alone: bool = False) -> Place:
        """Let a device serve this pool, with this model or for this persona; without any: let it rest.

        `alone`: a device that is given out takes only the chats that ask for the model. Raises NotMovable, ModelError.
        """
        home, device = self._home_of(node)
        chosen = self._pool_of(node, home, pool, model or persona)
        if persona and home:
            raise NotMovable(f"{node} belongs to pool {home} for good: it cannot be a persona's own.")
        if chosen is not None:
            if model:
                fitting.check(self._models, model, chosen, {node: device})
            elif not home:
                fitting.check_devices(chosen, {node: device})
            model = "" if model == chosen.model else model
        routes = (persona_route(persona),) if persona else _route(model, chosen)

        def change(known: Place) -> Place:
            return msgspec.structs.replace(
                Place(node=node, version=known.version, tier=_tier(known, home)),
                pool=chosen.name if chosen else "",
                model=model,
                general=bool(home) or not (persona or (alone and routes)),
                routes=routes,
                reason=_sentence(chosen, model, persona),
                decided_by=OPERATOR,
            )

        return self._decide([node], change)[0]

    def release(self, node: str) -> Place:
        """Give a device back to its strategy, or to the pool it belongs to. Raises NotMovable."""
        home, _ = self._home_of(node)

        def change(known: Place) -> Place:
            if known.decided_by != OPERATOR:
                raise NothingDecided(f"No operator has decided about {node}; there is nothing to release.")
            return _released(known, home)

        return self._decide([node], change)[0]

    def load(self, model: str, pool_name: str, nodes: Sequence[str]) -> list[Place]:
        """Let these nodes serve a model that is here. Twice is as good as once. Raises NotMovable, ModelError."""
        pool = self._topology.pool(pool_name)
        homes = {node: self._home_of(node) for node in nodes}
        fitting.check(self._models, model, pool, {node: device for node, (_, device) in homes.items()})

        def change(known: Place) -> Place:
            home, _ = homes[known.node]
            return msgspec.structs.replace(
                known,
                pool=pool_name,
                model=model,
                tier=_tier(known, home),
                general=True,
                routes=_route(model, pool),
                stage=0,
                peers=(),
                reason=_sentence(pool, model, ""),
                decided_by=OPERATOR,
            )

        return self._decide(nodes, change)

    def unload(self, model: str, pool_name: str, nodes: Sequence[str]) -> list[Place]:
        """Take a model out of these nodes: where an operator had it loaded, the place is given back.

        Gives what was changed. Raises NotLoaded, and ModelInUse where it is there because queues.yaml or a strategy
        says so.
        """
        known = self._places.all()
        held = [node for node in nodes if node in known and model in (known[node].model, *known[node].resident)]
        # what a strategy has loaded it would load again at once
        free = [node for node in held if known[node].decided_by == OPERATOR or self._home_of(node)[0]]
        if not free:
            raise self._why_not_unloaded(model, pool_name, held)

        def change(place: Place) -> Place:
            rest = tuple(name for name in place.resident if name != model)
            kept = "" if place.model == model else place.model
            fields = {"model": kept, "resident": rest, "reason": "An operator unloaded a model."}
            place = msgspec.structs.replace(place, routes=_route(kept, self._topology.pool(pool_name)), **fields)
            if kept:  # it serves another one, which somebody decided
                return place
            home, _ = self._home_of(place.node)
            if home and (rest or place.decided_by != OPERATOR):
                return msgspec.structs.replace(place, decided_by=RELEASED)
            return _released(msgspec.structs.replace(place, general=True), home)

        return self._decide(free, change)

    def _why_not_unloaded(self, model: str, pool_name: str, held: Sequence[str]) -> ModelError:
        if held:
            return ModelInUse(
                f"The strategy has {model} loaded on {', '.join(held)}, and would load it again. `coral-reef placement "
                "move`, or the device's tile on the page, decides otherwise."
            )
        if model == self._topology.pool(pool_name).model:
            return ModelInUse(
                f"{model} is the model that queues.yaml gives pool {pool_name}; load another one in its place."
            )
        return NotLoaded(f"{model} is loaded on no device of pool {pool_name}, so there is nothing to unload.")

    def _decide(self, nodes: Sequence[str], change: Change) -> list[Place]:
        for attempt in range(TRIES_MAX):
            now = {node: self._places.get(node) or Place(node=node) for node in nodes}
            try:
                stored = self._places.put([change(place) for place in now.values()])
            except Outdated:
                if attempt == TRIES_MAX - 1:
                    raise
                continue
            break
        self._announce([place.node for place in stored])
        return stored

    def _home_of(self, node: str) -> tuple[str, Device]:
        """The pool that owns this node for good (empty for one that is given out), and its device."""
        for pool in self._topology.pools.values():
            for device in pool.devices:
                if pool.node(device) == node:
                    return pool.name, device
        for device in self._topology.allocated:
            if device.node == node:
                return "", device
        raise UnknownDevice(f"There is no device {node!r}; queues.yaml has: {', '.join(nodes_of(self._topology))}.")

    def _pool_of(self, node: str, home: str, name: str, what: str) -> Pool | None:
        """The pool that is meant; None: the device is to rest."""
        name = name or home
        if name and name not in self._topology.pools:
            raise UnknownPool(
                f"There is no pool {name!r} in queues.yaml; there are: {', '.join(self._topology.pools)}."
            )
        if home and name != home:
            raise NotMovable(
                f"{node} belongs to pool {home} for good (queues.yaml): only its model can change. To let it move, "
                "name it under `allocation: devices` instead."
            )
        if not name and what:
            raise NotMovable("A model or a persona needs a pool: say chat, for example.")
        return self._topology.pools[name] if name else None


def nodes_of(topology: Topology) -> Sequence[str]:
    """Every worker that queues.yaml has."""
    fixed = [pool.node(device) for pool in topology.pools.values() for device in pool.devices]
    return [*fixed, *(device.node for device in topology.allocated)]


def _released(known: Place, home: str) -> Place:
    if home:
        reason = "As queues.yaml says."
        return Place(node=known.node, pool=home, reason=reason, decided_by=QUEUES_FILE, version=known.version)
    reason = "Released by the operator; the strategy decides again."
    return msgspec.structs.replace(known, decided_by=RELEASED, reason=reason)


def _tier(known: Place, home: str) -> Tier:
    """Its strategy finds it again where it was, but a stage of a pipeline is none without the others."""
    if home:
        return "pool"
    return "service" if known.tier in ("pool", "stage") else known.tier


def _route(model: str, pool: Pool | None) -> tuple[str, ...]:
    """Only chats ask for a model by a route."""
    return (model_route(model),) if model and pool is not None and pool.name == CHAT_POOL else ()


def _sentence(pool: Pool | None, model: str, persona: str) -> str:
    what = f"serve {pool.name}" if pool else "rest"
    for_whom = f" for persona {persona}" if persona else ""
    return f"An operator let it {what}{f' with {model}' if model else ''}{for_whom}."
