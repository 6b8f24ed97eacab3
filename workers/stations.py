"""What this worker has for the jobs of a pool, opened when the pool is served for the first time.

A pool's task modules are imported here and not before: a chat worker never pays for those of knowledge.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import redis
import sqlalchemy.exc

from reef import keys, runtime
from reef.contracts.jobs import FetchModelJob
from reef.ledger import Ledger, UnknownJob
from reef.metrics import WorkerMetrics
from reef.ports import KnowledgeContext, Station
from reef.records.database import Database
from reef.topology import Pool
from tasks import registry
from tasks.dispatch import Dispatcher
from workers.leases import LeaseKeeper
from workers.publisher import Publisher
from workers.rack import Rack
from workers.replaying import Replaying
from workers.seat import Seat

if TYPE_CHECKING:
    from reef.models.keeping import Keeping
    from reef.tracing import Spans

log = logging.getLogger(__name__)

KNOWLEDGE_POOLS = ("embed", "index")


@dataclass
class Stations:
    """Of one worker: it fills reef.runtime."""

    seat: Seat
    app: Any
    client: redis.Redis
    database: Database
    ledger: Ledger
    leases: LeaseKeeper
    publisher: Publisher
    rack: Rack
    replaying: Replaying
    spans: Spans | None = None
    _knowledge: KnowledgeContext | None = None

    def open(self, pool: Pool) -> None:
        """From now on jobs of this pool can be done here."""
        if runtime.device.has(pool.name):
            return
        registry.register(self.app, pool.name)
        metrics = self._metrics.of_pool(pool.name)
        runtime.device.fill(
            Station(
                node=self.seat.node,
                device=self.seat.keeper.served_by(),
                pool=pool,
                database=self.database,
                ledger=self.ledger,
                leases=self.leases,
                open_writer=lambda claim: self.publisher.open(
                    claim, on_fenced=lambda: self.leases.fenced(claim.job.id, claim.token)
                ),
                note_affinity=self._note_affinity,
                observe=metrics.observe,
                observe_inference=metrics.observe_inference,
                spans=self.spans,
                enter=partial(self.rack.enter, pool.name),
                pass_on=self._pass_on,
                knowledge=self._open_knowledge(metrics) if pool.name in KNOWLEDGE_POOLS else None,
                models=self._open_models() if pool.name == FetchModelJob.POOL else None,
            )
        )

    def metrics_text(self) -> str:
        """What was counted, in Prometheus text format."""
        return self._metrics.text()

    def close(self) -> None:
        """Tell what is not told yet."""
        if self._knowledge is not None:
            self._knowledge.flow.progress.close()

    @cached_property
    def _metrics(self) -> WorkerMetrics:
        return WorkerMetrics(self.seat.node, self.seat.own.name if self.seat.own else "")

    @cached_property
    def _dispatcher(self) -> Dispatcher:
        return Dispatcher(self.seat.settings, self.seat.topology, self.app)

    def _open_knowledge(self, metrics: WorkerMetrics) -> KnowledgeContext:
        from workers.knowledge import knowledge_context, make_flow

        settings = self.seat.settings
        if self._knowledge is None:
            flow = make_flow(self.ledger, settings, self._dispatcher, self.client)
        else:
            flow = self._knowledge.flow
        self._knowledge = knowledge_context(flow, self.database, settings, self._dispatcher, metrics)
        return self._knowledge

    def _open_models(self) -> Keeping:
        from reef.models.keeping import Keeping

        return Keeping(self.seat.settings, self.seat.topology, self.database, self.client)

    def _note_affinity(self, session_id: str) -> None:
        self.replaying.note(session_id)
        try:
            self.client.set(keys.affinity(session_id), self.seat.node, ex=keys.AFFINITY_TTL_S)
        except (redis.RedisError, OSError):
            log.debug("affinity of a session was not noted: the broker does not answer")

    def _pass_on(self, job_id: str) -> None:
        try:
            record = self.ledger.get(job_id)
        except UnknownJob:
            return  # deleted while its hint waited
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("job %s waits for the sweeper: the database does not answer (%s)", job_id, error)
            return
        if not record.ended:
            self._dispatcher.send_or_leave(record)
