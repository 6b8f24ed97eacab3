"""The Celery application: its settings, each with its reason. Task bodies register themselves in the worker only.

The ledger is the truth about jobs (reef/ledger); what is configured here keeps Celery from deciding on its own.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from celery import Celery

from reef import keys
from reef.settings import Settings, load_settings

BROKER_TIMEOUT_S = 3
WEB_BROKER_TIMEOUT_S = 1
"""The front door answers 503 rather than wait: a frozen broker must not pile up requests."""


def transport_options(settings: Settings) -> dict[str, Any]:
    """kombu's Redis options. A worker (settings.node) gets its own book of unacknowledged messages."""
    timeout_s = BROKER_TIMEOUT_S if settings.node else WEB_BROKER_TIMEOUT_S
    options: dict[str, Any] = {
        # never used for recovery: a short one runs every long job twice
        "visibility_timeout": 30 * 86_400,
        # its own queue first: turns whose prompt cache this device holds
        "queue_order_strategy": "tasks.queue_order:OwnFirst",
        # BRPOP timeout: how fast a worker notices that its queues were changed
        "polling_interval": 0.2,
        # with the socket timeout, finds a half-open link in about ten seconds instead of never
        "health_check_interval": 3,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "socket_keepalive": True,
    }
    if settings.node:
        book, index, mutex = keys.unacked(settings.node)
        options |= {"unacked_key": book, "unacked_index_key": index, "unacked_mutex_key": mutex}
    return options


def split_tls(url: str) -> tuple[str, dict[str, str] | None]:
    """A broker's URL without the TLS options of redis-py in it, and those as kombu wants them; None: no TLS.

    kombu speaks plainly to a rediss:// URL that names no option, and knows other words for `ssl_cert_reqs`.
    """
    parts = urlsplit(url)
    if parts.scheme != "rediss":
        return url, None
    query = parse_qsl(parts.query)
    tls = {name: value for name, value in query if name.startswith("ssl_")}
    rest = [(name, value) for name, value in query if name not in tls]
    return urlunsplit(parts._replace(query=urlencode(rest))), {"ssl_cert_reqs": "required"} | tls


def make_celery(settings: Settings) -> Celery:
    """The application for one process. Nothing connects before the first message."""
    address, tls = split_tls(settings.redis_url)
    app = Celery("coralreef", broker=address, set_as_current=True)
    app.conf.update(
        # results live in the ledger; Redis results cost six more commands a job
        result_backend=None,
        task_ignore_result=True,
        task_serializer="json",
        event_serializer="json",
        accept_content=["json"],
        # acknowledge when the job ended: what a dead worker held is then known exactly
        task_acks_late=True,
        task_acks_on_failure_or_timeout=True,
        # True would run a job that kills its worker for ever
        task_reject_on_worker_lost=False,
        # hold no more messages than run
        worker_prefetch_multiplier=1,
        # a reply goes on streaming through a blip of the broker; the ledger drops a doubled hint
        worker_cancel_long_running_tasks_on_connection_loss=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        broker_transport_options=transport_options(settings),
        broker_use_ssl=tls,
        task_publish_retry=bool(settings.node),
        task_publish_retry_policy={
            "max_retries": 2,
            "interval_start": 0,
            "interval_step": 0.1,
            "interval_max": 0.2,
        },
        task_default_queue="chat",
        task_create_missing_queues=True,
        # for Flower
        worker_send_task_events=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        timezone="UTC",
    )
    return app


def __getattr__(name: str) -> Celery:
    """`celery -A tasks.celery_app` (Flower, the celery command) finds `app` here, made when asked for."""
    if name == "app":
        return make_celery(load_settings())
    raise AttributeError(name)
