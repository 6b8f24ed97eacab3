"""Which devices serve a pool, which models are kept in their memory on a guess, and what may not go from the disk.

What an operator decides is written by reef/placement/operator.py; loading itself is the workers'.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import msgspec
import redis

from reef import keys
from reef.contracts.nodes import NodeReport
from reef.models.adapters import parts_of
from reef.models.errors import ModelError
from reef.placement.announcing import announce
from reef.placement.model import Place
from reef.placement.store import Outdated, PlacementStore
from reef.placement.view import CONTROLLER, OPERATOR
from reef.topology import Device, Topology

log = logging.getLogger(__name__)


class UnknownNode(KeyError):
    """No such node serves that pool."""


class Serving:
    """Which devices serve what, and what they keep in memory on a guess."""

    def __init__(self, topology: Topology, places: PlacementStore, client: redis.Redis) -> None:
        self.topology, self.places, self._client = topology, places, client

    def nodes(self, pool_name: str, wanted: Sequence[str] = ()) -> dict[str, Device]:
        """The devices that serve a pool by node, or those of them that are wanted.

        Raises KeyError for an unknown pool, UnknownNode, ModelError where the pool has none.
        """
        pool = self.topology.pool(pool_name)
        given = self.places.all()
        found = {pool.node(device): device for device in pool.devices}
        for device in self.topology.allocated:
            place = given.get(device.node)
            if device.node in wanted or (place is not None and place.pool == pool_name):
                found[device.node] = device
        if not found:
            raise ModelError(f"Pool {pool_name} has no device in queues.yaml, so nothing can be loaded there.")
        if unknown := [node for node in wanted if node not in found]:
            raise UnknownNode(f"no node {unknown[0]!r} in pool {pool_name}; there are: {', '.join(found)}")
        return {node: found[node] for node in wanted} if wanted else found

    def drop(self, model: str, nodes: Sequence[str]) -> list[str]:
        """Let these nodes' workers forget a model that no place gives them. Gives those that could be told."""
        told = []
        for node in nodes:
            try:
                if self._client.publish(keys.UNLOAD_CHANNEL, f"{node} {model}"):
                    told.append(node)
            except (redis.RedisError, OSError) as error:
                log.warning("%s was not told to forget %s: the broker does not answer (%s)", node, model, error)
        return told

    def keep_resident(self, node: str, pool_name: str, models: Sequence[str], reason: str) -> bool:
        """Have a node keep these models in memory beside the one that serves. True where that is a change."""
        place = self.places.get(node) or Place(node=node, pool=pool_name)
        if place.resident == tuple(models):
            return False
        wanted = msgspec.structs.replace(place, resident=tuple(models))
        if place.decided_by != OPERATOR:  # what serves there stays the operator's decision
            wanted = msgspec.structs.replace(wanted, reason=reason, decided_by=CONTROLLER)
        try:
            self.places.put([wanted])
        except Outdated:  # somebody else decided just now; the next look sees what
            return False
        announce(self._client, [node])
        return True


def named(topology: Topology) -> set[str]:
    """Names of files that queues.yaml (or a setting in its place) gives to pools with devices."""
    pools = [pool for pool in topology.pools.values() if pool.model and (pool.devices or topology.allocated)]
    return {part for pool in pools for part in parts_of(pool.model)}


def placed(places: PlacementStore) -> set[str]:
    """Names of files that some node should have in memory."""
    decided = places.all().values()
    return {part for place in decided for name in (place.model, *place.resident) if name for part in parts_of(name)}


def loaded_names(reports: Mapping[str, NodeReport]) -> dict[str, list[str]]:
    """Which models (and adapters) are in memory, and on which nodes."""
    found: dict[str, list[str]] = {}
    for report in reports.values():
        names = {report.model, *report.resident} if report.state in ("ready", "draining") else set()
        for part in {part for name in names if name for part in parts_of(name)}:
            found.setdefault(part, []).append(report.node)
    return {name: sorted(nodes) for name, nodes in found.items()}
