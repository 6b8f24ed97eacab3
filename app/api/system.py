"""The reef itself for machines: health, readiness, metrics, the description of this API, login."""

from __future__ import annotations

import logging

import sqlalchemy.exc
from flask import Response, g, request
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest

from app import openapi as openapi_document
from app.api.shapes import Health, Readiness
from app.guard import KEY_COOKIE, KEY_COOKIE_MAX_AGE_S, Keys, Login
from app.refusals import Refusal
from app.services import Services
from app.web import Answer, Call
from reef import scrape
from reef.contracts.jobs import ChatJob
from reef.knowledge.documents import count_states
from reef.metrics import Texts, gauge
from reef.nodes import Reports
from reef.placement.serving import is_served
from reef.topology import Pool

log = logging.getLogger(__name__)

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
    ready, checks = readiness(call.services)
    if (vectors := call.services.status.vectors()) != "off":
        checks["vectors"] = "ok" if vectors == "ok" else "does not answer; chats go on without documents"
    body = Readiness(status="ready" if ready else "not_ready", checks=checks if g.authorised else None)
    return Answer(status=200 if ready else 503, body=body, headers={} if ready else {"Retry-After": "1"})


def readiness(services: Services) -> tuple[bool, dict[str, str]]:
    """Whether a message would be answered now, and what was found about each part that is needed for it."""
    checks = {"redis": services.status.broker(), "database": _database_state(services)}
    reports = services.status.reports() if checks["redis"] == "ok" else {}
    for pool in services.topology.pools.values():
        if is_served(services.topology, pool.name):
            checks[f"pool {pool.name}"] = _pool_state(pool, reports)
    return all(state == "ok" for name, state in checks.items() if name in NEEDED_TO_ANSWER), checks


def metrics(call: Call) -> Response:
    """Prometheus metrics of this process and its gateway, the ledger and all workers."""
    services = call.services
    registry = CollectorRegistry()
    _ledger_gauges(services, registry)
    reports = services.status.reports() if services.status.broker() == "ok" else {}
    _node_gauges(reports, registry)
    _operators_view(services, reports, registry)
    gateway = services.gateway.report() if services.gateway else None
    if services.gateway:
        gauge("coralreef_gateway_up", registry).set(gateway is not None)
    # both count by the same names, which may stand in a page once
    door = [services.counts.text(), *([gateway.metrics] if gateway else [])]
    registry.register(Texts([*door, *(report.metrics for report in reports.values())]))
    return Response(generate_latest(registry), content_type=CONTENT_TYPE_PLAIN_0_0_4)


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


def _database_state(services: Services) -> str:
    try:
        services.database.ping()
    except sqlalchemy.exc.SQLAlchemyError:
        return "does not answer"
    return "ok"


def _pool_state(pool: Pool, reports: Reports) -> str:
    found = [report for report in reports.values() if report.pool == pool.name]
    if any(report.state == "ready" for report in found):
        return "ok"
    if not found:
        return "no worker"
    first = found[0]
    share = f" {first.progress:.0%}" if first.state == "loading" else ""
    return f"{first.state}{share}{': ' + first.note if first.note else ''}"


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


def _operators_view(services: Services, reports: scrape.Reports, registry: CollectorRegistry) -> None:
    scrape.tell_topology(services.topology, registry)
    scrape.tell_nodes(reports, registry)
    try:
        scrape.tell_records(services.database, services.topology, reports, registry)
    except sqlalchemy.exc.SQLAlchemyError:
        log.warning("metrics without queues and devices: the database does not answer")
