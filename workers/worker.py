"""What runs in a worker process, and the order in which it starts and stops. `workers/main.py` is its entry."""

from __future__ import annotations

import gc
import logging
import os
import threading
from typing import Any

# celery looks for these when its worker starts; here they are imported while the model is still being loaded
import celery.apps.worker
import celery.worker.consumer  # noqa: F401
import kombu.transport.redis  # noqa: F401
import redis
from celery.signals import worker_shutting_down

from reef import keys
from reef.contracts.events import ModelNotice, encode
from reef.conversation.replay import replay
from reef.ledger import Ledger
from reef.placement.store import PlacementStore
from reef.ports import ChatEngine, ChatResult, EngineError
from reef.records.database import Database
from reef.tracing import open_spans
from tasks import registry
from tasks.celery_app import make_celery
from workers.boot import Boot
from workers.consuming import Consuming
from workers.following import Follower, Means
from workers.heartbeat import Heartbeat
from workers.hints import Strays
from workers.leases import LeaseKeeper
from workers.listener import Listener
from workers.publisher import Publisher
from workers.rack import Mounted, Rack
from workers.rates import Rates
from workers.replaying import Replaying
from workers.stations import Stations

log = logging.getLogger(__name__)

BROKER_TIMEOUT_S = 3
DATABASE_BUSY_S = 10.0


class Worker:
    """The parts of a worker process and the order in which they start and stop."""

    def __init__(self, boot: Boot) -> None:
        self.boot, self.seat = boot, boot.seat
        self.client = redis.Redis.from_url(
            self.seat.settings.redis_url,
            socket_timeout=BROKER_TIMEOUT_S,
            socket_connect_timeout=BROKER_TIMEOUT_S,
            health_check_interval=3,
        )
        self.heartbeat = Heartbeat(self.client, self.seat, boot.want)
        self.database = Database(self.seat.settings.sqlalchemy_url, busy_timeout_s=DATABASE_BUSY_S)
        self.rack = Rack()
        self.replaying = Replaying(self.rack, self._replay)
        self.rack.on_visit = self.replaying.interrupt
        self.spans = open_spans(self.seat.settings, "worker")

    def run(self) -> None:
        """Load, serve until a signal says stop, leave in good order. Raises EngineError when loading fails."""
        self.boot.tell(self.heartbeat.progress)
        app = make_celery(self.seat.settings)
        queues = self.boot.queues()
        worker = self._celery_worker(app, queues)
        ledger = Ledger(self.database)
        if self.boot.want.pool is not None:
            registry.register(app, self.boot.want.pool.name)  # its modules are imported while the model is loaded
        mounted = self._mount()
        leases = LeaseKeeper(ledger, self.seat.node, self.boot.leases_s(), self.rack.steps)
        publisher = Publisher(self.client)
        stations = Stations(
            self.seat, app, self.client, self.database, ledger, leases, publisher, self.rack, self.replaying, self.spans
        )
        if self.boot.want.pool is not None and mounted is not None:
            stations.open(self.boot.want.pool)
        self.heartbeat.measure(lambda: leases.running, Rates(self.rack.work).per_second, stations.metrics_text)
        means = Means(
            consuming=Consuming(worker, queues),
            heartbeat=self.heartbeat,
            strays=Strays(self.client, self.seat.node),
            replaying=self.replaying,
            read=lambda: PlacementStore(self.database).get(self.seat.node),
            open_station=stations.open,
            announce=self._announce,
        )
        follower = Follower(self.seat, self.boot.file, self.rack, means)
        self.boot.tell_refusal(follower.mounting)
        listeners = [
            Listener(self.client, keys.STOP_CHANNEL, leases.stop),
            Listener(self.client, keys.PLACEMENT_CHANNEL, lambda node: self._decided(node, follower)),
            Listener(self.client, keys.UNLOAD_CHANNEL, lambda message: self._unload(message, follower)),
        ]
        gc.freeze()
        gc.enable()
        follower.start(mounted)
        try:
            self._serve(worker, leases, follower)
        finally:
            follower.close()
            self.replaying.close()
            for listener in listeners:
                listener.close()
            stations.close()
            publisher.close()
            leases.close()
            self.heartbeat.close()
            if self.spans is not None:
                self.spans.close()
            self.rack.close()
            self.database.dispose()

    def fail(self, reason: str) -> None:
        """Report that this device cannot serve. Raises redis.RedisError."""
        self.heartbeat.state("failed", reason)
        self.heartbeat.write()

    def _mount(self) -> Mounted | None:
        """The engine that was loaded meanwhile; None where this device has no pool now."""
        loaded = self.boot.wait()
        pool = self.boot.want.pool
        if loaded is None or pool is None:
            return None
        model, engine, memory_bytes = loaded
        mounted = self.rack.mount(pool.name, model, engine, memory_bytes)
        self.rack.serve(mounted)
        self.heartbeat.change(
            state="ready",
            engine=engine.name,
            model=engine.model,
            progress=1.0,
            note="",
            resident=self.rack.models(pool.name),
        )
        log.info("%s serves %s with %s, %d streams", self.seat.node, engine.model, engine.name, pool.streams)
        return mounted

    def _replay(self, onto: Mounted, session_id: str, cancel: threading.Event) -> ChatResult | None:
        if not isinstance(onto.engine, ChatEngine):
            return None
        return replay(self.database, onto.engine, session_id, self.seat.pools[onto.pool].limits.tokens_max, cancel)

    def _announce(self, change: ModelNotice) -> None:
        try:
            self.client.publish(keys.SYSTEM_CHANNEL, encode(change))
        except (redis.RedisError, OSError):
            log.debug("nobody was told of it: the broker does not answer; the report says it, too")

    def _decided(self, node: str, follower: Follower) -> None:
        if node == self.seat.node:
            follower.look_soon()

    def _unload(self, message: str, follower: Follower) -> None:
        node, _, model = message.partition(" ")
        if node == self.seat.node and self.rack.drop(model):
            follower.look_soon()  # which tells what is in memory now

    def _celery_worker(self, app: Any, queues: tuple[str, ...]) -> Any:
        return app.Worker(
            hostname=f"{self.seat.node}@{os.uname().nodename}",
            pool="workers.task_pool:TaskPool",
            concurrency=self.seat.streams_max,
            queues=list(queues),
            quiet=True,
            loglevel=self.seat.settings.log_level.upper(),
            without_gossip=True,
            without_mingle=True,
            optimization="fair",
        )

    def _serve(self, worker: Any, leases: LeaseKeeper, follower: Follower) -> None:
        drain_s = max(pool.limits.drain_s for pool in self.seat.pools.values())

        def begin_drain(**_: Any) -> None:
            follower.stop()
            self.heartbeat.state("draining", "finishing what runs, taking nothing new")
            timer = threading.Timer(drain_s, leases.drain)
            timer.daemon = True
            timer.start()

        worker_shutting_down.connect(begin_drain, weak=False)
        worker.start()


def serve(boot: Boot) -> int:
    """Run a worker until it is told to stop; gives the exit status."""
    worker = Worker(boot)
    try:
        worker.run()
    except EngineError as error:
        log.error("%s cannot serve: %s", boot.seat.node, error)  # noqa: TRY400 - the sentence is enough
        worker.fail(str(error))
        return 1
    finally:
        boot.seat.keeper.close()
    return 0
