"""Devices and pools as they are now: queues.yaml, what workers report, what was decided, what the ledger holds.

Only looks. A device that no worker reports for is told as missing, never left out.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import redis
import sqlalchemy as sa

from reef import keys
from reef.contracts.nodes import NodeReport
from reef.contracts.system import DeviceStatus, PlaceView, PoolStatus
from reef.ledger import Ledger
from reef.ledger.survey import Queue, survey
from reef.nodes import Reports
from reef.placement.model import Place
from reef.placement.store import PlacementStore
from reef.records.tables import devices as devices_table
from reef.topology import Device, Pool, Topology

DOWN = ("missing", "failed", "quarantined")
"""States in which a device serves nothing. One whose work the CPU does meanwhile is ready."""
_REPORTED = [
    name
    for name in DeviceStatus.__struct_fields__
    if name in NodeReport.__struct_fields__ and name not in ("node", "device", "kind")
]
_TROUBLED = sa.select(
    devices_table.c.host, devices_table.c.name, devices_table.c.failures, devices_table.c.quarantined_until
).where(sa.or_(devices_table.c.failures > 0, devices_table.c.quarantined_until > 0))


class Seen(msgspec.Struct, frozen=True):
    """All pools with their devices, and the devices that serve none."""

    pools: list[PoolStatus]
    unplaced: list[DeviceStatus]


class Overview:
    """Safe to share between threads."""

    def __init__(self, ledger: Ledger, client: redis.Redis, topology: Topology) -> None:
        self._ledger, self._client, self.topology = ledger, client, topology
        self._places = PlacementStore(ledger.database)

    def look(self, reports: Reports) -> Seen:
        """How everything stands. Raises sqlalchemy.exc.SQLAlchemyError; what the broker does not tell is left out."""
        places = self._places.all()
        troubled = self._troubled()
        own = self._own_queues(reports)
        found: list[DeviceStatus] = []
        for home, device, node in self._known(reports):
            place, report = places.get(node), reports.get(node)
            status = _device(home, device, node, report, place)
            fields: dict[str, Any] = {"waiting": own.get(node, 0), "movable": home == ""}
            fields |= troubled.get((device.name, status.host), troubled.get((device.name, device.host), {}))
            found.append(msgspec.structs.replace(status, **fields))
        queues = survey(self._ledger, self.topology.pools)
        pools = [_pool(pool, queues[pool.name], found) for pool in self.topology.pools.values()]
        return Seen(pools, [device for device in found if device.pool not in self.topology.pools])

    def _known(self, reports: Reports) -> list[tuple[str, Device, str]]:
        """Pool for good ("": given out), device and node of every device of queues.yaml and of every other worker."""
        known = [
            (pool.name, device, pool.node(device)) for pool in self.topology.pools.values() for device in pool.devices
        ]
        known += [("", device, device.node) for device in self.topology.allocated]
        nodes = {node for _, _, node in known}
        for node in sorted(reports.keys() - nodes):
            report = reports[node]
            known.append((report.pool, Device(report.device, report.kind, host=report.host), node))  # type: ignore[arg-type]
        return known

    def _troubled(self) -> dict[tuple[str, str], dict[str, Any]]:
        with self._ledger.database.read() as connection:
            rows = connection.execute(_TROUBLED).all()
        return {(name, host): {"failures": count, "quarantined_until": until} for host, name, count, until in rows}

    def _own_queues(self, reports: Reports) -> dict[str, int]:
        """How many hints wait for each of these workers alone."""
        queues: list[tuple[str, str]] = []
        for node, report in reports.items():
            pool = self.topology.pools.get(report.pool)
            if pool is not None:
                queues.append((node, keys.node_queue(pool.queue, node)))
                queues += [(node, keys.route_queue(pool.queue, route)) for route in report.routes]
        counts: dict[str, int] = {}
        try:
            with self._client.pipeline(transaction=False) as pipeline:
                for _, queue in queues:
                    pipeline.llen(queue)
                for (node, _), length in zip(queues, pipeline.execute(), strict=True):
                    counts[node] = counts.get(node, 0) + length
        except (redis.RedisError, OSError):
            return {}
        return counts


def _device(home: str, device: Device, node: str, report: NodeReport | None, place: Place | None) -> DeviceStatus:
    fields: dict[str, Any] = {"node": node, "device": device.name, "kind": device.kind, "host": device.host}
    if place is not None:
        fields["place"] = PlaceView(**{name: getattr(place, name) for name in PlaceView.__struct_fields__})
    if report is None:
        fields |= {"state": "missing", "note": "no worker reports for this device"}
        fields |= {"pool": home or (place.pool if place else ""), "simulated": device.kind == "simulated"}
        return DeviceStatus(**fields)
    return DeviceStatus(**fields | {name: getattr(report, name) for name in _REPORTED})


def _pool(pool: Pool, queue: Queue, found: Iterable[DeviceStatus]) -> PoolStatus:
    devices = [
        device if device.streams else msgspec.structs.replace(device, streams=pool.streams)
        for device in found
        if device.pool == pool.name
    ]
    serving = sum(device.streams for device in devices if device.state not in DOWN)
    return PoolStatus(
        name=pool.name,
        queue=pool.queue,
        streams=serving,
        running=queue.load.running,
        waiting=queue.load.queued,
        waiting_max=pool.limits.waiting_max,
        devices=devices,
        model=pool.model,
        oldest_at=queue.oldest_at,
        wait_s=queue.load.wait_s(queue.load.queued + 1, serving),
        job_s=None if queue.load.job_s is None else round(queue.load.job_s, 3),
    )
