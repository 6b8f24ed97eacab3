"""A worker process: one device, its engine, its queue. `python -m workers.main --pool chat --device cpu`."""

from __future__ import annotations

import argparse
import logging
import os
import sys
import threading
from collections.abc import Sequence
from typing import Any

import redis
from reef.metrics import WorkerMetrics

from reef import keys, runtime
from reef.ledger import Ledger
from reef.ports import ChatEngine, DeviceContext, EngineError
from reef.records.database import Database
from reef.settings import Settings, load_settings
from reef.topology import Device, Pool, load_topology
from workers.heartbeat import Heartbeat
from workers.leases import LeaseKeeper, StopListener
from workers.logs import configure_logging
from workers.publisher import Publisher

log = logging.getLogger(__name__)

BROKER_TIMEOUT_S = 3
DATABASE_BUSY_S = 10.0


def pin(pool: Pool, device: Device) -> None:
    """Give this process the device's CPU cores and the pool's priority."""
    if device.cores:
        os.sched_setaffinity(0, device.cores)
    if pool.nice:
        os.nice(pool.nice)


class Worker:
    """The parts of a worker process and the order in which they start and stop."""

    def __init__(self, settings: Settings, pool: Pool, device: Device) -> None:
        self.settings, self.pool, self.device = settings, pool, device
        self.client = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=BROKER_TIMEOUT_S,
            socket_connect_timeout=BROKER_TIMEOUT_S,
            health_check_interval=3,
        )
        self.heartbeat = Heartbeat(self.client, pool, device)
        self.database = Database(settings.sqlalchemy_url, busy_timeout_s=DATABASE_BUSY_S)

    def run(self) -> None:
        """Load, serve until a signal says stop, leave in good order. Raises EngineError when loading fails."""
        engine = self._load()
        celery_app = self._celery()
        ledger = Ledger(self.database)
        leases = LeaseKeeper(ledger, self.settings.node, self.pool.limits.lease_s, engine.steps)
        stops = StopListener(self.client, leases.stop)
        publisher = Publisher(self.client)
        metrics = WorkerMetrics(self.settings.node, self.pool.name)
        runtime.device.fill(
            DeviceContext(
                node=self.settings.node,
                device=self.device.name,
                pool=self.pool,
                engine=engine,
                database=self.database,
                ledger=ledger,
                leases=leases,
                open_writer=lambda claim: publisher.open(
                    claim, on_fenced=lambda: leases.fenced(claim.job.id, claim.token)
                ),
                note_affinity=self._note_affinity,
                observe=metrics.observe,
            )
        )
        self.heartbeat.ready(engine.name, engine.model, lambda: leases.running, metrics.text)
        log.info("%s serves %s with %s, %d streams", self.settings.node, engine.model, engine.name, self.pool.streams)
        try:
            self._serve(celery_app, leases)
        finally:
            stops.close()
            publisher.close()
            leases.close()
            self.heartbeat.close()
            engine.close()
            self.database.dispose()

    def _load(self) -> ChatEngine:
        from workers.engines.select import choose_engine

        engine = choose_engine(self.settings, self.pool, self.device)
        engine.load(self.heartbeat.progress)
        return engine

    def _celery(self) -> Any:
        from tasks import chat
        from tasks.celery_app import make_celery

        app = make_celery(self.settings)
        chat.register(app)
        return app

    def _note_affinity(self, session_id: str) -> None:
        try:
            self.client.set(keys.affinity(session_id), self.settings.node, ex=keys.AFFINITY_TTL_S)
        except (redis.RedisError, OSError):
            log.debug("affinity of a session was not noted: the broker does not answer")

    def _serve(self, app: Any, leases: LeaseKeeper) -> None:
        from celery.signals import worker_shutting_down

        def begin_drain(**_: Any) -> None:
            self.heartbeat.state("draining", "finishing what runs, taking nothing new")
            timer = threading.Timer(self.pool.limits.drain_s, leases.drain)
            timer.daemon = True
            timer.start()

        worker_shutting_down.connect(begin_drain, weak=False)
        worker = app.Worker(
            hostname=f"{self.settings.node}@{os.uname().nodename}",
            pool="threads",
            concurrency=self.pool.streams,
            # its own queue first: turns whose prompt cache this device holds
            queues=[keys.node_queue(self.pool.queue, self.settings.node), self.pool.queue],
            quiet=True,
            loglevel=self.settings.log_level.upper(),
            without_gossip=True,
            without_mingle=True,
            optimization="fair",
        )
        worker.start()


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of a worker process."""
    parser = argparse.ArgumentParser(prog="workers.main", description=__doc__)
    parser.add_argument("--pool", required=True)
    parser.add_argument("--device", required=True)
    arguments = parser.parse_args(argv)
    settings = load_settings()
    configure_logging(settings)
    topology = load_topology(settings.queues_file, settings.model)
    pool = topology.pool(arguments.pool)
    device = pool.device(arguments.device)
    pin(pool, device)
    worker = Worker(settings.changed(node=pool.node(device)), pool, device)
    try:
        worker.run()
    except EngineError as error:
        log.error("%s cannot serve: %s", worker.settings.node, error)  # noqa: TRY400 - the sentence is enough
        worker.heartbeat.state("failed", str(error))
        worker.heartbeat.write()
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
