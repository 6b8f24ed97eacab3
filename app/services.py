"""The parts of a web process, made once by the factory and found by every request."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import msgspec
import redis
from flask import current_app

from app import handoff
from app.counts import Process, WebCounts
from app.desk import Desk
from app.handoff import Gateway
from app.markdown import Renderer
from app.model_desk import ModelDesk
from app.reef_status import ReefStatus
from app.relay import Relay
from app.subscription import Subscription, ThreadSubscription
from reef.hurry import Hurry
from reef.knowledge.flow import Flow
from reef.knowledge.originals import Originals
from reef.knowledge.progress import Progress
from reef.knowledge.uploads import Limits, Uploads
from reef.ledger import Ledger
from reef.models.keeping import Keeping
from reef.observing.overview import Overview
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import Topology, load_topology
from reef.tracing import Spans, open_spans
from tasks.dispatch import Dispatcher

EXTENSION = "coral_reef"
DATABASE_BUSY_S = 5.0
"""How long a request waits for its turn to write; then the answer is 503."""
BROKER_TIMEOUT_S = 1.0
CONNECTIONS_MAX = 64


class Services(msgspec.Struct, frozen=True, kw_only=True):
    """Everything a request may need."""

    settings: Settings
    topology: Topology
    database: Database
    ledger: Ledger
    redis: redis.Redis
    relay: Relay
    desk: Desk
    renderer: Renderer
    counts: WebCounts
    uploads: Uploads
    status: ReefStatus
    models: ModelDesk
    gateway: Gateway | None = None
    """Where WebSockets go; None: they are served here."""
    spans: Spans | None = None

    def close(self) -> None:
        """Tell every client to come again and let go of the connections."""
        self.relay.close()
        if self.gateway is not None:
            self.gateway.close()
        if self.spans is not None:
            self.spans.close()
        self.uploads.flow.progress.close()


def build(
    settings: Settings,
    *,
    process: Process = "web",
    subscription: Subscription | None = None,
    outside: Callable[..., Any] | None = None,
) -> Services:
    """Make the parts of this process. Nothing connects before the first request. Raises TopologyError.

    `subscription`: how Redis is heard, by a thread unless told otherwise; `outside` calls what waits for the disk.
    """
    topology = load_topology(settings.queues_file, settings.model)
    database = Database(settings.sqlalchemy_url, busy_timeout_s=DATABASE_BUSY_S)
    ledger = Ledger(database)
    pool = redis.BlockingConnectionPool.from_url(
        settings.redis_url,
        max_connections=CONNECTIONS_MAX,
        timeout=BROKER_TIMEOUT_S,
        socket_timeout=BROKER_TIMEOUT_S,
        socket_connect_timeout=BROKER_TIMEOUT_S,
        retry=None,
    )
    client = redis.Redis(connection_pool=pool)
    counts = WebCounts(process)
    gateway = handoff.gateway_of(settings, counts) if process == "web" else None
    dispatcher = Dispatcher(settings, topology)
    elsewhere = {} if outside is None else {"outside": outside}
    originals = Originals(settings.data_dir, reserve_bytes=settings.disk_reserve_bytes, **elsewhere)
    holding = functools.partial(handoff.state, process, gateway, counts)
    status = ReefStatus(settings, ledger, client, Overview(ledger, client, topology), holding)
    spans = open_spans(settings, process)
    flow = Flow(ledger, topology, originals, Progress(client, database), dispatcher.send_or_leave)
    hearing = subscription or ThreadSubscription(settings.redis_url)
    return Services(
        settings=settings,
        topology=topology,
        database=database,
        ledger=ledger,
        redis=client,
        relay=Relay(hearing, client, ledger, topology, counts.reread, status.board),
        desk=Desk(ledger, topology, client, dispatcher, counts.turn, Hurry(settings.data_dir).mark, spans),
        renderer=Renderer(),
        counts=counts,
        uploads=_uploads(settings, flow),
        status=status,
        models=ModelDesk(Keeping(settings, topology, database, client), ledger, topology, dispatcher.send_or_leave),
        gateway=gateway,
        spans=spans,
    )


def _uploads(settings: Settings, flow: Flow) -> Uploads:
    limits = Limits(
        file_bytes_max=settings.upload_file_bytes_max,
        files_max=settings.upload_files_max,
        upload_bytes_max=settings.upload_bytes_max,
        reserve_bytes=settings.disk_reserve_bytes,
    )
    return Uploads(flow, limits)


def services() -> Services:
    """The parts of the application that serves this request."""
    return cast(Services, current_app.extensions[EXTENSION])
