"""What runs in a worker process, and the order in which it starts and stops. `workers/main.py` is its entry."""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import TYPE_CHECKING, Any

# celery looks for these when its worker starts; here they are imported while the model is still being loaded
import celery.apps.worker
import celery.worker.consumer  # noqa: F401
import kombu.transport.redis  # noqa: F401
import redis
from celery.signals import worker_shutting_down

from reef import keys, runtime
from reef.contracts.jobs import FetchModelJob
from reef.ledger import Ledger
from reef.metrics import WorkerMetrics
from reef.ports import DeviceContext, KnowledgeContext
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import Pool, load_topology
from tasks import registry
from tasks.celery_app import make_celery
from tasks.dispatch import Dispatcher
from workers.devices.keeper import DeviceKeeper
from workers.heartbeat import Heartbeat
from workers.leases import LeaseKeeper, StopListener
from workers.loading import Loading
from workers.publisher import Publisher

if TYPE_CHECKING:
    from reef.models.keeping import Keeping

log = logging.getLogger(__name__)

BROKER_TIMEOUT_S = 3
KNOWLEDGE_POOLS = ("embed", "index")
DATABASE_BUSY_S = 10.0


class Worker:
    """The parts of a worker process and the order in which they start and stop."""

    def __init__(self, settings: Settings, pool: Pool, keeper: DeviceKeeper, loading: Loading) -> None:
        self.settings, self.pool, self.keeper, self.loading = settings, pool, keeper, loading
        self.device = keeper.device
        self.client = redis.Redis.from_url(
            settings.redis_url,
            socket_timeout=BROKER_TIMEOUT_S,
            socket_connect_timeout=BROKER_TIMEOUT_S,
            health_check_interval=3,
        )
        self.heartbeat = Heartbeat(self.client, pool, self.device, keeper.says)
        self.database = Database(settings.sqlalchemy_url, busy_timeout_s=DATABASE_BUSY_S)
        self.knowledge: KnowledgeContext | None = None

    def run(self) -> None:
        """Load, serve until a signal says stop, leave in good order. Raises EngineError when loading fails."""
        self.loading.tell(self.heartbeat.progress)
        worker = self._celery_worker()
        ledger = Ledger(self.database)
        engine = self.loading.wait()
        self.keeper.serving()
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
                observe_inference=metrics.observe_inference,
                knowledge=self._knowledge(worker.app, ledger, metrics),
                models=self._models(),
            )
        )
        self.heartbeat.ready(engine.name, engine.model, lambda: leases.running, metrics.text)
        gc.freeze()
        gc.enable()
        log.info("%s serves %s with %s, %d streams", self.settings.node, engine.model, engine.name, self.pool.streams)
        try:
            self._serve(worker, leases)
        finally:
            stops.close()
            if self.knowledge is not None:
                self.knowledge.flow.progress.close()
            publisher.close()
            leases.close()
            self.heartbeat.close()
            engine.close()
            self.database.dispose()

    def fail(self, reason: str) -> None:
        """Report that this device cannot serve. Raises redis.RedisError."""
        self.heartbeat.state("failed", reason)
        self.heartbeat.write()

    def _knowledge(self, app: Any, ledger: Ledger, metrics: WorkerMetrics) -> KnowledgeContext | None:
        """Only in the pools that have a part in it: a chat worker that died must be back soon."""
        if self.pool.name not in KNOWLEDGE_POOLS:
            return None
        from workers.knowledge import knowledge_context, make_flow

        topology = load_topology(self.settings.queues_file, self.settings.model)
        dispatcher = Dispatcher(self.settings, topology, app)
        flow = make_flow(ledger, self.settings, dispatcher, self.client)
        self.knowledge = knowledge_context(flow, self.database, self.settings.chroma_url, dispatcher, metrics)
        return self.knowledge

    def _models(self) -> Keeping | None:
        if self.pool.name != FetchModelJob.POOL:
            return None
        from reef.models.keeping import Keeping

        topology = load_topology(self.settings.queues_file, self.settings.model)
        return Keeping(self.settings, topology, self.database, self.client)

    def _note_affinity(self, session_id: str) -> None:
        try:
            self.client.set(keys.affinity(session_id), self.settings.node, ex=keys.AFFINITY_TTL_S)
        except (redis.RedisError, OSError):
            log.debug("affinity of a session was not noted: the broker does not answer")

    def _celery_worker(self) -> Any:
        app = make_celery(self.settings)
        registry.register(app, self.pool.name)
        return app.Worker(
            hostname=f"{self.settings.node}@{os.uname().nodename}",
            pool="workers.task_pool:TaskPool",
            concurrency=self.pool.streams,
            # its own queue first: turns whose prompt cache this device holds
            queues=[keys.node_queue(self.pool.queue, self.settings.node), self.pool.queue],
            quiet=True,
            loglevel=self.settings.log_level.upper(),
            without_gossip=True,
            without_mingle=True,
            optimization="fair",
        )

    def _serve(self, worker: Any, leases: LeaseKeeper) -> None:
        def begin_drain(**_: Any) -> None:
            self.heartbeat.state("draining", "finishing what runs, taking nothing new")
            timer = threading.Timer(self.pool.limits.drain_s, leases.drain)
            timer.daemon = True
            timer.start()

        worker_shutting_down.connect(begin_drain, weak=False)
        worker.start()
