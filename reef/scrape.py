"""What Prometheus is told when it asks: the records and the workers' last reports as gauges. Counts nothing itself.

A value that a device does not tell is left out, never told as zero.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping

import sqlalchemy as sa
from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from reef.contracts.nodes import NodeReport
from reef.metrics import METRICS, gauge
from reef.observing.overview import DOWN
from reef.placement.store import QUEUES_FILE
from reef.records.database import Database
from reef.records.tables import ACTIVE_STATES, devices, jobs, models, placements
from reef.topology import Topology

Reports = Mapping[str, NodeReport]

DECISIONS = "coralreef_placement_decisions_total"
_ENDED = (
    sa.select(jobs.c.pool, jobs.c.state, sa.func.count())
    .where(jobs.c.state.not_in(ACTIVE_STATES))
    .group_by(jobs.c.state, jobs.c.pool)
)
_OLDEST = (
    sa.select(jobs.c.pool, sa.func.min(jobs.c.created_at))
    .where(jobs.c.state == "queued", jobs.c.not_before <= sa.bindparam("now", type_=sa.Double))
    .group_by(jobs.c.pool)
)
_MODEL_STATE = sa.case((models.c.path != "", "cached"), (models.c.error != "", "failed"), else_="absent")

_OF_NODES: dict[str, Callable[[NodeReport], float | None]] = {
    "coralreef_node_streams": lambda report: 0 if report.state in DOWN else report.streams,
    "coralreef_node_loading": lambda report: bool(report.loading) or report.state == "loading",
    "coralreef_node_failed": lambda report: report.state == "failed",
    "coralreef_node_fallback": lambda report: report.fallback,
    "coralreef_node_tokens_per_second": lambda report: report.tokens_per_s,
    "coralreef_node_inferences_per_second": lambda report: report.inferences_per_s,
    "coralreef_node_last_fault_timestamp_seconds": lambda report: report.last_fault_at or None,
    "coralreef_node_temperature_celsius": lambda report: report.health.temperature_c,
    "coralreef_node_temperature_limit_celsius": lambda report: report.health.temperature_limit_c,
    "coralreef_node_throttled": lambda report: report.health.throttled,
    "coralreef_node_resets": lambda report: report.health.resets,
    "coralreef_node_memory_used_bytes": lambda report: report.health.memory_used_bytes,
    "coralreef_node_memory_bytes": lambda report: report.health.memory_total_bytes,
}


def tell_topology(topology: Topology, registry: CollectorRegistry) -> None:
    """What queues.yaml promises: what is there is held against it."""
    given, waiting_max = gauge("coralreef_pool_devices", registry), gauge("coralreef_pool_waiting_max", registry)
    for pool in topology.pools.values():
        given.labels(pool=pool.name).set(len(pool.devices))
        waiting_max.labels(pool=pool.name).set(pool.limits.waiting_max)


def tell_records(database: Database, topology: Topology, reports: Reports, registry: CollectorRegistry) -> None:
    """Queues, devices, places and models as the database has them. Raises sqlalchemy.exc.SQLAlchemyError."""
    now = time.time()
    with database.read() as connection:
        _tell_jobs(connection, topology, now, registry)
        _tell_devices(connection, now, registry)
        _tell_models(connection, registry)
        placed = connection.execute(sa.select(placements.c.node, placements.c.version, placements.c.decided_by)).all()
    registry.register(_Decisions({node: version for node, version, _ in placed}))
    versions = {node: version for node, version, by in placed if by != QUEUES_FILE}
    behind = gauge("coralreef_node_place_behind", registry)
    for report in reports.values():
        behind.labels(report.node, report.pool).set(report.place_version < versions.get(report.node, 0))


def tell_nodes(reports: Reports, registry: CollectorRegistry) -> None:
    """What the workers say of themselves and of their hardware."""
    for name, read in _OF_NODES.items():
        metric = gauge(name, registry)
        for report in reports.values():
            value = read(report)
            if value is not None:
                metric.labels(report.node, report.pool).set(value)
    info = gauge("coralreef_node_info", registry)
    for report in reports.values():
        labels = (report.node, report.pool, report.device, report.kind, report.host)
        info.labels(*labels, report.engine, report.model, report.tier).set(1)


def _tell_jobs(connection: sa.Connection, topology: Topology, now: float, registry: CollectorRegistry) -> None:
    oldest, ended = gauge("coralreef_pool_oldest_seconds", registry), gauge("coralreef_pool_ended_jobs", registry)
    since: dict[str, float] = dict(connection.execute(_OLDEST, {"now": now}).all())
    counts = {(pool, state): count for pool, state, count in connection.execute(_ENDED)}
    for pool in topology.pools:
        oldest.labels(pool=pool).set(max(0.0, now - since[pool]) if pool in since else 0.0)
        for state in ("done", "failed", "dead", "cancelled"):
            ended.labels(pool=pool, state=state).set(counts.get((pool, state), 0))


def _tell_devices(connection: sa.Connection, now: float, registry: CollectorRegistry) -> None:
    failures = gauge("coralreef_device_failures", registry)
    quarantined = gauge("coralreef_device_quarantined", registry)
    columns = (devices.c.host, devices.c.name, devices.c.failures, devices.c.quarantined_until)
    for host, name, count, until in connection.execute(sa.select(*columns)):
        failures.labels(host=host, device=name).set(count)
        quarantined.labels(host=host, device=name).set(until > now)


def _tell_models(connection: sa.Connection, registry: CollectorRegistry) -> None:
    size, by_state = gauge("coralreef_model_cache_bytes", registry), gauge("coralreef_models", registry)
    cached = sa.select(models.c.format, sa.func.sum(models.c.size_bytes)).where(models.c.path != "")
    for kind, total in connection.execute(cached.group_by(models.c.format)):
        size.labels(format=kind).set(total)
    for state, count in connection.execute(sa.select(_MODEL_STATE, sa.func.count()).group_by(_MODEL_STATE)):
        by_state.labels(state=state).set(count)


class _Decisions(Collector):
    """A place's version grows with each decision about its node: the counter is in the records."""

    def __init__(self, versions: Mapping[str, int]) -> None:
        self._versions = versions

    def collect(self) -> Iterator[Metric]:
        family = CounterMetricFamily(DECISIONS, METRICS[DECISIONS].help, labels=METRICS[DECISIONS].labels)
        for node, version in self._versions.items():
            family.add_metric([node], version)
        yield family
