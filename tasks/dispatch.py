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
from reef.contracts.nodes import Vitals, read_vitals
from reef.ledger import JobRecord
from reef.placement.serving import given_out
from reef.settings import Settings
from reef.topology import Pool, Topology
from tasks.celery_app import BROKER_TIMEOUT_S, WEB_BROKER_TIMEOUT_S, make_celery

log = logging.getLogger(__name__)

REPORTS_FRESH_S = 0.25
"""What workers say is read again when it is older."""
FIRST_AMONG = 32
"""A hint that is to come first is looked for among so many of those sent last."""

# Puts the hint of job ARGV[1], just sent, where consumers of the queue KEYS[1] look first: they pop on the right.
_TO_THE_FRONT = """
for _, message in ipairs(redis.call('LRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)) do
  if string.find(message, ARGV[1], 1, true) then
    redis.call('LREM', KEYS[1], 1, message)
    redis.call('RPUSH', KEYS[1], message)
    return 1
  end
end
return 0
"""


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
        self._reports: tuple[float, dict[str, Vitals]] = (-REPORTS_FRESH_S, {})

    def send(self, record: JobRecord, *, prefer: bool = True, first: bool = False) -> None:
        """Put a hint for this job on a queue of its pool. Raises BrokerDown.

        A job with a route goes to the devices that report it, or to any where none does. `prefer`: the session's next
        turn goes to the device that holds its prompt cache, if that has room. `first`: it comes before all that wait
        there; for a job that had its turn already, and lost its worker.
        """
        pool = self.topology.pool(record.pool)
        try:
            queue = self._routed(pool, record.route) if record.route else pool.queue
            if prefer and pool.affinity and record.session_id and self._several(pool):
                queue = self._preferred(pool, record) or queue
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
            if first:
                self.redis.eval(_TO_THE_FRONT, 1, queue, record.id, str(FIRST_AMONG))
        except (OperationalError, redis.RedisError, OSError) as error:
            raise BrokerDown(f"the broker did not take the job: {error}") from error

    def send_again(self, record: JobRecord) -> None:
        """Put a hint on its pool's queue once more; a job that had begun comes first there. Raises BrokerDown."""
        self.send(record, prefer=False, first=record.token > 0)

    def send_or_leave(self, record: JobRecord, *, prefer: bool = False) -> None:
        """Put a hint on its pool's queue; one that the broker does not take is left to the sweeper."""
        try:
            self.send(record, prefer=prefer)
        except BrokerDown as error:
            log.warning("job %s waits for the sweeper: %s", record.id, error)

    def _routed(self, pool: Pool, route: str) -> str:
        """The queue of a route that somebody serves, else the pool's: an answer of another model is better than none.

        That the route's queue is used is noted first: hints on a queue that nobody knows of would never be counted.
        """
        if not any(route in vitals.routes and takes(vitals, pool) for vitals in self._vitals().values()):
            return pool.queue
        self.redis.sadd(keys.routes_used(pool.queue), route)
        return keys.route_queue(pool.queue, route)

    def _vitals(self) -> dict[str, Vitals]:
        """What the workers say, at most a moment old."""
        now = time.monotonic()
        read_at, found = self._reports
        if now - read_at >= REPORTS_FRESH_S:
            raw: Any = self.redis.hvals(keys.NODES)
            found = read_vitals(raw)
            self._reports = (now, found)
        return found

    def _several(self, pool: Pool) -> bool:
        return len(pool.devices) + (len(self.topology.allocated) if pool.name in given_out(self.topology) else 0) > 1

    def _preferred(self, pool: Pool, record: JobRecord) -> str | None:
        raw: Any = self.redis.get(keys.affinity(record.session_id or ""))
        if raw is None:
            return None
        node = raw.decode()
        if node not in nodes_of(self.topology, pool):
            return None
        report_raw: Any = self.redis.hget(keys.NODES, node)
        vitals = read_vitals([report_raw]).get(node) if report_raw else None
        if vitals is None or not takes(vitals, pool):
            return None
        # a device that went over to other jobs has the conversation no more
        if not (vitals.general if record.route is None else record.route in vitals.routes):
            return None
        queue = keys.node_queue(pool.queue, node)
        waiting: Any = self.redis.llen(queue)
        return queue if vitals.running + waiting < vitals.streams else None

    def pending(self, pool_name: str) -> int:
        """Hints that wait on a pool's queues. Raises BrokerDown."""
        pool = self.topology.pool(pool_name)
        try:
            queues = queues_of(self.redis, self.topology, pool)
            with self.redis.pipeline(transaction=False) as pipeline:
                for queue in queues:
                    pipeline.llen(queue)
                return sum(pipeline.execute())
        except (redis.RedisError, OSError) as error:
            raise BrokerDown(f"the broker does not answer: {error}") from error


def takes(vitals: Vitals, pool: Pool) -> bool:
    """Whether a worker takes jobs of this pool now, as far as its report tells."""
    return vitals.pool == pool.name and vitals.takes_jobs and time.time() - vitals.at < keys.NODE_TTL_S


def nodes_of(topology: Topology, pool: Pool) -> list[str]:
    """Workers that may serve this pool: its own, and those that a strategy gives out."""
    own = [pool.node(device) for device in pool.devices]
    return own + [device.node for device in topology.allocated] if pool.name in given_out(topology) else own


def queues_of(client: redis.Redis, topology: Topology, pool: Pool) -> list[str]:
    """Every queue on which hints of this pool may lie: its own, one for each worker, one for each route in use."""
    used: Any = client.smembers(keys.routes_used(pool.queue))
    routes = sorted(route.decode() for route in used)
    return [
        pool.queue,
        *(keys.node_queue(pool.queue, node) for node in nodes_of(topology, pool)),
        *(keys.route_queue(pool.queue, route) for route in routes),
    ]
