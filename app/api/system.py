"""The reef itself: health, readiness, status, the dead list, metrics, login."""

from __future__ import annotations

import functools
import logging
import time
from pathlib import Path
from typing import Any

import msgspec
import redis
import sqlalchemy.exc
from flask import Response, g, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from app import __version__
from app import openapi as openapi_document
from app.api.shapes import (
    BetterModel,
    DeadJob,
    DeadJobs,
    DeviceStatus,
    Health,
    ModelStatus,
    PoolStatus,
    Readiness,
    Reports,
    RunCounts,
    SystemStatus,
)
from app.guard import KEY_COOKIE, KEY_COOKIE_MAX_AGE_S, Keys, Login
from app.refusals import Refusal
from app.services import Services
from app.web import Answer, Call
from reef import keys
from reef.contracts.jobs import ChatJob
from reef.contracts.nodes import decode_report
from reef.knowledge import heartbeat
from reef.knowledge.documents import count_states
from reef.ledger import JobRecord, PoolLoad
from reef.metrics import WorkerTexts, gauge
from reef.models.catalogue import CatalogueEntry, load_catalogue
from reef.topology import Pool
from tasks.dispatch import BrokerDown

log = logging.getLogger(__name__)

DEAD_LISTED_MAX = 100
NEEDED_TO_ANSWER = ("redis", "database", f"pool {ChatJob.POOL}")
"""Checks of /readyz without which no message is answered: a load balancer sends nobody here then."""


def healthz(_call: Call) -> Health:
    """Whether this process answers; asks nobody else."""
    return Health("ok")


def readyz(call: Call) -> Answer:
    """Whether a message would be answered now: broker, database, and a ready worker in the chat pool.

    The other pools with devices and the vector store are reported in `checks` and make nothing unready: without them
    chats are answered, only without documents.
    """
    checks = {"redis": _redis_state(call.services), "database": _database_state(call.services)}
    reports = live_reports(call.services) if checks["redis"] == "ok" else {}
    for pool in call.services.topology.pools.values():
        if pool.devices:
            checks[f"pool {pool.name}"] = _pool_state(pool, reports)
    ready = all(state == "ok" for name, state in checks.items() if name in NEEDED_TO_ANSWER)
    if (vectors := _vectors_state(call.services)) != "off":
        checks["vectors"] = "ok" if vectors == "ok" else "does not answer; chats go on without documents"
    body = Readiness(status="ready" if ready else "not_ready", checks=checks if g.authorised else None)
    return Answer(status=200 if ready else 503, body=body, headers={} if ready else {"Retry-After": "1"})


def status(call: Call) -> SystemStatus:
    """Version, model, pools, devices and queues."""
    services = call.services
    broker = _redis_state(services)
    reports = live_reports(services) if broker == "ok" else {}
    counts = services.ledger.counts()
    return SystemStatus(
        version=__version__,
        model=_model(services, reports),
        pools=[_pool(services, pool, reports) for pool in services.topology.pools.values()],
        runs=RunCounts(counts.get("queued", 0), counts.get("running", 0), counts.get("dead", 0)),
        flower_url=services.settings.flower_url,
        database=services.database.kind,
        broker="ok" if broker == "ok" else "down",
        vectors=_vectors_state(services),
    )


def dead(call: Call) -> DeadJobs:
    """Jobs whose attempts are used up."""
    return DeadJobs([_dead(record) for record in call.services.ledger.dead(DEAD_LISTED_MAX)])


def retry_dead(call: Call, job_id: str) -> Answer:
    """Give a dead job a new set of attempts."""
    services = call.services
    found = services.ledger.get(job_id)
    if found.state not in ("dead", "failed"):
        detail = f"This job is {found.state}; only dead and failed ones can be tried again."
        raise Refusal(409, "not_dead", "Not dead", detail)
    record = services.ledger.revive(job_id, services.topology.pool(found.pool).limits.deadline_s)
    try:
        services.desk.resend(record)
    except BrokerDown:
        log.warning("job %s waits for the sweeper: the broker does not answer", job_id)
    return Answer(status=202, body=_dead(record))


def metrics(call: Call) -> Response:
    """Prometheus metrics of this process, the ledger and all workers."""
    services = call.services
    registry = CollectorRegistry()
    _ledger_gauges(services, registry)
    reports = live_reports(services) if _redis_state(services) == "ok" else {}
    _node_gauges(reports, registry)
    registry.register(WorkerTexts(report.metrics for report in reports.values()))
    text = generate_latest(services.counts.registry) + generate_latest(registry)
    return Response(text, content_type=CONTENT_TYPE_PLAIN_0_0_4)


def openapi(_call: Call) -> Response:
    """This API as an OpenAPI document."""
    return Response(openapi_document.served(), mimetype="application/json")


def login(call: Call) -> Answer:
    """Keep an API key in a cookie that scripts cannot read."""
    body: Login = call.body
    if not Keys(call.services.database).accepts(body.key.strip()):
        raise Refusal(401, "bad_key", "Unknown key", "This API key is not valid.")
    jar = Response()
    jar.set_cookie(
        KEY_COOKIE,
        body.key.strip(),
        max_age=KEY_COOKIE_MAX_AGE_S,
        httponly=True,
        secure=request.is_secure,
        samesite="Strict",
        path="/",
    )
    return Answer(status=204, headers={"Set-Cookie": jar.headers["Set-Cookie"]})


def live_reports(services: Services) -> Reports:
    """What the workers say that are alive."""
    try:
        raw: dict[bytes, bytes] = services.redis.hgetall(keys.NODES)  # type: ignore[assignment]
    except (redis.RedisError, OSError):
        return {}
    reports: Reports = {}
    for value in raw.values():
        try:
            report = decode_report(value)
        except msgspec.DecodeError:
            continue  # a worker of another version
        if time.time() - report.at < keys.NODE_TTL_S:
            reports[report.node] = report
    return reports


def _redis_state(services: Services) -> str:
    try:
        services.redis.ping()
    except (redis.RedisError, OSError):
        return "does not answer"
    return "ok"


def _database_state(services: Services) -> str:
    try:
        services.database.ping()
    except sqlalchemy.exc.SQLAlchemyError:
        return "does not answer"
    return "ok"


def _vectors_state(services: Services) -> str:
    if not services.settings.chroma_url:
        return "off"
    return "ok" if heartbeat.beats(services.settings.chroma_url) else "down"


def _pool_state(pool: Pool, reports: Reports) -> str:
    found = [report for report in reports.values() if report.pool == pool.name]
    if any(report.state == "ready" for report in found):
        return "ok"
    if not found:
        return "no worker"
    first = found[0]
    share = f" {first.progress:.0%}" if first.state == "loading" else ""
    return f"{first.state}{share}{': ' + first.note if first.note else ''}"


def _pool(services: Services, pool: Pool, reports: Reports) -> PoolStatus:
    load: PoolLoad = services.ledger.load(pool.name)
    return PoolStatus(
        name=pool.name,
        queue=pool.queue,
        streams=pool.streams * len(pool.devices),
        running=load.running,
        waiting=load.queued,
        waiting_max=pool.limits.waiting_max,
        devices=_devices(pool, reports),
    )


def _devices(pool: Pool, reports: Reports) -> list[DeviceStatus]:
    devices = []
    for device in pool.devices:
        node = pool.node(device)
        fields: dict[str, Any] = {"node": node, "device": device.name, "kind": device.kind, "host": device.host}
        report = reports.get(node)
        if report is None:
            fields |= {"state": "missing", "streams": pool.streams, "note": "no worker reports for this device"}
        else:
            fields |= {
                name: getattr(report, name)
                for name in DeviceStatus.__struct_fields__
                if name not in ("node", "device", "kind")
            }
        devices.append(DeviceStatus(**fields))
    return devices


def _model(services: Services, reports: Reports) -> ModelStatus:
    loaded = next((report.model for report in reports.values() if report.pool == "chat" and report.model), "")
    name = loaded or services.topology.pool("chat").model
    catalogue = _catalogue()
    entry = catalogue.get(name)
    if entry is None:
        return ModelStatus(name=name, title=Path(name).stem or name, demo=False)
    offer = catalogue.get(entry.better)
    # `up --model` fetches what is not there yet: one step
    better = BetterModel(offer.title, f"make run MODEL={offer.name}") if offer else None
    return ModelStatus(name=name, title=entry.title, demo=entry.demo, better=better)


@functools.cache
def _catalogue() -> dict[str, CatalogueEntry]:
    return load_catalogue()


def _dead(record: JobRecord) -> DeadJob:
    return DeadJob(**{name: getattr(record, name) for name in DeadJob.__struct_fields__})


def _ledger_gauges(services: Services, registry: CollectorRegistry) -> None:
    by_state = gauge("coralreef_jobs", registry)
    by_pool = gauge("coralreef_pool_jobs", registry)
    of_documents = gauge("coralreef_documents", registry)
    of_uploads = gauge("coralreef_uploads", registry)
    try:
        for state, count in count_states(services.database).items():
            of_documents.labels(state=state).set(count)
        for state, count in services.uploads.counts().items():
            of_uploads.labels(state=state).set(count)
        for state, count in services.ledger.counts().items():
            by_state.labels(state=state).set(count)
        for pool in services.topology.pools:
            load = services.ledger.load(pool)
            by_pool.labels(pool=pool, state="queued").set(load.queued)
            by_pool.labels(pool=pool, state="running").set(load.running)
    except sqlalchemy.exc.SQLAlchemyError:
        log.warning("metrics without the ledger: the database does not answer")


def _node_gauges(reports: Reports, registry: CollectorRegistry) -> None:
    up = gauge("coralreef_node_up", registry)
    running = gauge("coralreef_node_running", registry)
    for report in reports.values():
        up.labels(node=report.node, pool=report.pool).set(report.state == "ready")
        running.labels(node=report.node, pool=report.pool).set(report.running)
