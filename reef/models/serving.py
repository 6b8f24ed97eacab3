"""Which nodes should serve a model: places are written here for `load` and `unload`, and read for who may go.

Loading itself is the workers' (they follow their places); fetching is a job. Nothing here waits for either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence

import msgspec
import redis

from reef import keys
from reef.contracts.nodes import NodeReport
from reef.models.adapters import parts_of
from reef.models.errors import ModelError, ModelInUse
from reef.placement.model import Place
from reef.placement.store import Outdated, PlacementStore
from reef.topology import CHAT_POOL, Device, Pool, Topology

log = logging.getLogger(__name__)

TRIES_MAX = 5
"""Somebody else may decide about the same node at the same moment."""
EMBED_POOL = "embed"
FILE_ENGINES = ("auto", "openvino", "llama", "tflite")
FILE_DEVICES = ("cpu", "cuda", "edgetpu")


class UnknownNode(KeyError):
    """No such node serves that pool."""


class Serving:
    """Writes places on behalf of the operator."""

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

    def needs_file(self, pool_name: str, nodes: Mapping[str, Device]) -> bool:
        """Whether one of these devices loads its model from a file of ours."""
        pool = self.topology.pool(pool_name)
        return pool.engine in FILE_ENGINES and any(device.kind in FILE_DEVICES for device in nodes.values())

    def load(self, model: str, pool_name: str, nodes: Sequence[str]) -> list[Place]:
        """Let these nodes serve a model. Twice is as good as once."""

        def change(place: Place) -> Place:
            return msgspec.structs.replace(
                place, pool=pool_name, model=model, reason="an operator loaded this model", decided_by="operator"
            )

        return self._decide(nodes, pool_name, change)

    def unload(self, model: str, pool_name: str, nodes: Sequence[str]) -> list[Place]:
        """Take a model out of these nodes' places: they go back to their pool's own. Gives what was changed.

        Raises ModelInUse where it is the pool's own.
        """
        own = self.topology.pool(pool_name).model
        held = [node for node in nodes if _holds(self.places.get(node), model)]
        if not held:
            if model == own:
                raise ModelInUse(
                    f"{model} is the model that queues.yaml gives pool {pool_name}; load another one in its place."
                )
            return []

        def change(place: Place) -> Place:
            return msgspec.structs.replace(
                place,
                model="" if place.model == model else place.model,
                resident=tuple(name for name in place.resident if name != model),
                reason="an operator unloaded a model",
                decided_by="operator",
            )

        return self._decide(held, pool_name, change)

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

        def change(place: Place) -> Place:
            return msgspec.structs.replace(place, resident=tuple(models), reason=reason, decided_by="controller")

        self._decide([node], pool_name, change)
        return True

    def _decide(self, nodes: Sequence[str], pool_name: str, change: Callable[[Place], Place]) -> list[Place]:
        for _ in range(TRIES_MAX):
            now = {node: self.places.get(node) or Place(node=node, pool=pool_name) for node in nodes}
            try:
                stored = self.places.put([change(place) for place in now.values()])
            except Outdated:
                continue
            self._announce([place.node for place in stored])
            return stored
        raise ModelError("Others decide about these devices at the same time. Try again in a moment.")

    def _announce(self, nodes: Sequence[str]) -> None:
        try:
            for node in nodes:
                self._client.publish(keys.PLACEMENT_CHANNEL, node)
        except (redis.RedisError, OSError) as error:
            log.warning("the workers will see their places at their next look (%s)", error)


def named(topology: Topology) -> set[str]:
    """Names of files that queues.yaml (or a setting in its place) gives to pools with devices."""
    pools = [pool for pool in topology.pools.values() if pool.model and (pool.devices or topology.allocated)]
    return {part for pool in pools for part in parts_of(pool.model)}


def placed(places: PlacementStore) -> set[str]:
    """Names of files that some node should have in memory."""
    decided = places.all().values()
    return {part for place in decided for name in (place.model, *place.resident) if name for part in parts_of(name)}


def _holds(place: Place | None, model: str) -> bool:
    return place is not None and model in (place.model, *place.resident)


def check_format(form: str, pool: Pool) -> None:
    """Raises ModelError where a pool's engines cannot read a model of this format."""
    if pool.name == EMBED_POOL:
        raise ModelError(
            "The embedding model cannot be exchanged while the reef runs: the vectors of all documents belong to it. "
            "Change it in queues.yaml, start again, and index the documents anew."
        )
    wanted = "gguf" if pool.name == CHAT_POOL else "tflite"
    if form != wanted:
        raise ModelError(f"Pool {pool.name} serves models in {wanted} format; this one is {form}.")


def loaded_names(reports: Mapping[str, NodeReport]) -> dict[str, list[str]]:
    """Which models (and adapters) are in memory, and on which nodes."""
    found: dict[str, list[str]] = {}
    for report in reports.values():
        names = {report.model, *report.resident} if report.state in ("ready", "draining") else set()
        for part in {part for name in names if name for part in parts_of(name)}:
            found.setdefault(part, []).append(report.node)
    return {name: sorted(nodes) for name, nodes in found.items()}
