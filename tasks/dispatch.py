"""Putting hints on queues: which queue a job's hint goes to, and how many hints wait there."""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
import redis
from celery import Celery
from kombu.exceptions import OperationalError

from reef import keys
from reef.contracts.jobs import JobHint
from reef.contracts.nodes import decode_report
from reef.ledger import JobRecord
from reef.settings import Settings
from reef.topology import Pool, Topology
from tasks.celery_app import BROKER_TIMEOUT_S, WEB_BROKER_TIMEOUT_S, make_celery

log = logging.getLogger(__name__)


class BrokerDown(Exception):
    """The broker did not take the message in time."""


class Dispatcher:
    """Sends hints. One per process; safe to share between threads and greenlets."""

    def __init__(self, settings: Settings, topology: Topology, celery: Celery | None = None) -> None:
        """`celery`: the application of a process that has one already."""
        self.topology = topology
        self.celery = celery or make_celery(settings)
        timeout_s = BROKER_TIMEOUT_S if settings.node else WEB_BROKER_TIMEOUT_S
        self.redis = redis.Redis.from_url(
            settings.redis_url, socket_timeout=timeout_s, socket_connect_timeout=timeout_s, retry=None
        )

    def send(self, record: JobRecord, *, prefer: bool = True) -> None:
        """Put a hint for this job on a queue of its pool. Raises BrokerDown.

        `prefer`: the session's next turn goes to the device that holds its prompt cache, if that has room.
        """
        pool = self.topology.pool(record.pool)
        queue = pool.queue
        try:
            if prefer and pool.affinity and record.session_id and len(pool.devices) > 1:
                queue = self._preferred(pool, record.session_id) or queue
            hint = msgspec.to_builtins(JobHint(job_id=record.id))
            # what Flower shows of the arguments is told here: working it out costs more than sending them
            self.celery.send_task(
                record.task,
                kwargs={"hint": hint},
                queue=queue,
                task_id=record.id,
                argsrepr="()",
                kwargsrepr=f"{{'job_id': '{record.id}'}}",
            )
        except (OperationalError, redis.RedisError, OSError) as error:
            raise BrokerDown(f"the broker did not take the job: {error}") from error

    def send_or_leave(self, record: JobRecord, *, prefer: bool = False) -> None:
        """Put a hint on its pool's queue; one that the broker does not take is left to the sweeper."""
        try:
            self.send(record, prefer=prefer)
        except BrokerDown as error:
            log.warning("job %s waits for the sweeper: %s", record.id, error)

    def _preferred(self, pool: Pool, session_id: str) -> str | None:
        raw: Any = self.redis.get(keys.affinity(session_id))
        if raw is None:
            return None
        node = raw.decode()
        if node not in {pool.node(device) for device in pool.devices}:
            return None
        report_raw: Any = self.redis.hget(keys.NODES, node)
        if report_raw is None:
            return None
        report = decode_report(report_raw)
        alive = report.state == "ready" and time.time() - report.at < keys.NODE_TTL_S
        queue = keys.node_queue(pool.queue, node)
        waiting: Any = self.redis.llen(queue)
        return queue if alive and report.running + waiting < report.streams else None

    def pending(self, pool_name: str) -> int:
        """Hints that wait on a pool's queues. Raises BrokerDown."""
        pool = self.topology.pool(pool_name)
        queues = [pool.queue, *(keys.node_queue(pool.queue, pool.node(device)) for device in pool.devices)]
        try:
            with self.redis.pipeline(transaction=False) as pipeline:
                for queue in queues:
                    pipeline.llen(queue)
                return sum(pipeline.execute())
        except (redis.RedisError, OSError) as error:
            raise BrokerDown(f"the broker does not answer: {error}") from error
