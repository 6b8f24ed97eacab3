"""What an operator may decide about devices: move one, load another model on it, give it back to its strategy.

A decision of an operator stands until it is released; the controller works around it.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from reef.placement.model import Place, model_route, persona_route
from reef.placement.store import PlacementStore
from reef.placement.view import OPERATOR
from reef.topology import Topology


class NotMovable(ValueError):
    """This cannot be done with this device; the message says why and what can."""


def move(
    store: PlacementStore, topology: Topology, node: str, *, pool: str = "", model: str = "", persona: str = ""
) -> Place:
    """Let a device serve this pool, with this model or for this persona. Raises NotMovable, Outdated."""
    home = _home_of(topology, node)
    pool = pool or home
    if pool and pool not in topology.pools:
        raise NotMovable(f"There is no pool {pool!r} in queues.yaml; there are: {', '.join(topology.pools)}.")
    if home and pool != home:
        raise NotMovable(f"{node} belongs to pool {home} for good (queues.yaml): only its model can change.")
    if persona and home:
        raise NotMovable(f"{node} belongs to pool {home} for good: it cannot be a persona's own.")
    known = store.get(node) or Place(node=node)
    if not pool and (model or persona):
        raise NotMovable("A model or a persona needs a pool: say --pool chat, for example.")
    if pool and model == topology.pool(pool).model:
        model = ""
    routes = (persona_route(persona),) if persona else (model_route(model),) if model else ()
    place = Place(
        node=node,
        pool=pool,
        model=model,
        tier="pool" if home else known.tier,
        general=not routes or bool(home),
        routes=routes,
        reason=_sentence(pool, model, persona),
        decided_by=OPERATOR,
        version=known.version,
    )
    return store.put([place])[0]


def release(store: PlacementStore, topology: Topology, node: str) -> Place:
    """Give a device back to its strategy, or to the pool it belongs to. Raises NotMovable, Outdated."""
    home = _home_of(topology, node)
    known = store.get(node)
    if known is None or known.decided_by != OPERATOR:
        raise NotMovable(f"No operator has decided about {node}; there is nothing to release.")
    if home:
        plain = Place(node=node, pool=home, reason="As queues.yaml says.", decided_by="queues.yaml")
        return store.put([msgspec.structs.replace(plain, version=known.version)])[0]
    reason = "Released by the operator; the strategy decides again."
    return store.put([msgspec.structs.replace(known, decided_by="released", reason=reason)])[0]


def nodes_of(topology: Topology) -> Sequence[str]:
    """Every worker that queues.yaml has."""
    fixed = [pool.node(device) for pool in topology.pools.values() for device in pool.devices]
    return [*fixed, *(device.node for device in topology.allocated)]


def _home_of(topology: Topology, node: str) -> str:
    """The pool that owns this node for good; empty for one that is given out. Raises NotMovable."""
    for pool in topology.pools.values():
        if any(pool.node(device) == node for device in pool.devices):
            return pool.name
    if any(device.node == node for device in topology.allocated):
        return ""
    raise NotMovable(f"There is no device {node!r}; queues.yaml has: {', '.join(nodes_of(topology))}.")


def _sentence(pool: str, model: str, persona: str) -> str:
    what = f"serve {pool}" if pool else "wait"
    for_whom = f" for persona {persona}" if persona else ""
    return f"The operator lets it {what}{f' with {model}' if model else ''}{for_whom}."
