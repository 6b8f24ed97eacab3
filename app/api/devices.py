"""Where devices should serve, as the operator decides it. Workers obey the decision by themselves (reef/placement)."""

from __future__ import annotations

import logging

import redis

from app.api.shapes import PlaceRequest
from app.refusals import FieldError, Refusal, not_found
from app.services import Services
from app.web import Answer, Call
from reef import keys
from reef.placement.model import Place, model_route
from reef.placement.store import Outdated, PlacementStore
from reef.topology import Pool, Topology

log = logging.getLogger(__name__)

OPERATOR = "operator"
TRIES_MAX = 5
"""Somebody else may decide about the same device in the same moment."""


def place(call: Call, node: str) -> Answer:
    """Let a device serve a pool, with a model; the decision holds until it is taken back or another is made.

    A device that queues.yaml names in a pool stays in that pool: only its model can be chosen.
    """
    wanted: PlaceRequest = call.body
    services = call.services
    home = _home(services.topology, node)
    pool = services.topology.pools.get(wanted.pool)
    _check(services.topology, node, home, wanted, pool)
    store = PlacementStore(services.database)
    for _ in range(TRIES_MAX):
        known = store.get(node)
        try:
            stored = store.put([_decided(node, wanted, home, known)])[0]
        except Outdated:
            continue
        _announce(services, node)
        return Answer(status=202, body=stored)
    detail = f"Others keep deciding about {node}; look where it is now and try again."
    raise Refusal(409, "outdated", "Decided meanwhile", detail)


def forget_place(call: Call, node: str) -> Answer:
    """Take back what an operator decided about a device: it does again what queues.yaml or its strategy says."""
    services = call.services
    _home(services.topology, node)
    store = PlacementStore(services.database)
    known = store.get(node)
    if known is None or known.decided_by != OPERATOR:
        detail = f"No operator's decision stands about {node}."
        raise Refusal(409, "not_decided", "Nothing to take back", detail)
    store.forget([node])
    _announce(services, node)
    return Answer(status=204)


def _home(topology: Topology, node: str) -> str:
    """The pool that keeps this device for good; empty where a strategy gives it out. Raises Refusal for no device."""
    for pool in topology.pools.values():
        if any(pool.node(device) == node for device in pool.devices):
            return pool.name
    if any(device.node == node for device in topology.allocated):
        return ""
    raise not_found("device", node)


def _check(topology: Topology, node: str, home: str, wanted: PlaceRequest, pool: Pool | None) -> None:
    if pool is None and (wanted.pool or home):
        detail = f"queues.yaml has no pool {wanted.pool!r}; it has: {', '.join(topology.pools)}."
        raise Refusal(400, "unknown_pool", "Unknown pool", detail, errors=(FieldError("pool", detail),))
    if home and wanted.pool != home:
        detail = (
            f"queues.yaml gives {node} to pool {home} for good. To let it move, name it under `allocation: devices` "
            "instead."
        )
        raise Refusal(409, "not_movable", "Not movable", detail)


def _decided(node: str, wanted: PlaceRequest, home: str, known: Place | None) -> Place:
    what = f"serve {wanted.pool}" if wanted.pool else "rest"
    return Place(
        node=node,
        pool=wanted.pool,
        model=wanted.model,
        tier="pool" if home else "service",
        routes=(model_route(wanted.model),) if wanted.model else (),
        reason=f"An operator let it {what}{f' with {wanted.model}' if wanted.model else ''}.",
        decided_by=OPERATOR,
        version=known.version if known else 0,
    )


def _announce(services: Services, node: str) -> None:
    try:
        services.redis.publish(keys.PLACEMENT_CHANNEL, node)
    except (redis.RedisError, OSError) as error:
        log.warning("the worker of %s learns of its place later: the broker does not answer (%s)", node, error)
