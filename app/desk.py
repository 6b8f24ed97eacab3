"""Where turns are accepted and runs are stopped. REST, SSE, WebSocket and the OpenAI endpoints all come here.

Order of an acceptance: the broker answers -> the ledger commits -> the hint is on the queue, so that a worker can begin
-> the `queued` event is in the run's stream, unless the worker was faster -> the session's watchers hear of it. What
fails on the way is taken back or left to the sweeper.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import msgspec
import redis
import sqlalchemy.exc

from app.refusals import RETRY_SOON_S, BrokerAway, Refusal, refusal_of
from app.relay import persona_of
from reef import keys, streams
from reef.contracts.events import Queued
from reef.contracts.jobs import Job
from reef.conversation.ends import end_event
from reef.conversation.turns import Turn, Turns
from reef.ledger import JobRecord, Ledger, PoolLoad
from reef.topology import Topology
from reef.tracing import Spans
from tasks.dispatch import BrokerDown, Dispatcher

log = logging.getLogger(__name__)

ACCEPTING_MAX = 4
"""Turns that are being accepted at once. SQLite writes one at a time anyway, and who only reads need not wait behind
hundreds of writers."""
ACCEPT_WAIT_S = 20.0


class Accepted(msgspec.Struct, frozen=True, kw_only=True):
    """A run that will be answered. `queued` is its first event; `turn` is None for a bare completion."""

    run: JobRecord
    queued: Queued
    turn: Turn | None = None
    known: bool = False

    @property
    def conversation(self) -> Turn:
        """The turn. Raises RuntimeError for a bare completion."""
        if self.turn is None:
            raise RuntimeError(f"run {self.run.id} belongs to no conversation")
        return self.turn


OnAccepted = Callable[[Accepted], None]


class Desk:
    """Accepts and stops. One per process."""

    def __init__(
        self,
        ledger: Ledger,
        topology: Topology,
        client: redis.Redis,
        dispatcher: Dispatcher,
        count: Callable[[str], None],
        hurry: Callable[[], None] = lambda: None,
        spans: Spans | None = None,
    ) -> None:
        """`count` is called with how each turn was answered: accepted, or the code of the refusal.

        `hurry` is called when somebody begins to wait for a reply.
        """
        self._spans = spans
        self._turns = Turns(ledger.database, ledger, topology)
        self._ledger, self._topology = ledger, topology
        self._client, self._dispatcher = client, dispatcher
        self._count_outcome, self._hurry = count, hurry
        self._at_once = threading.BoundedSemaphore(ACCEPTING_MAX)

    def say(
        self,
        persona_id: str,
        text: str,
        *,
        session_id: str | None = None,
        idempotency_key: str | None = None,
        tokens_max: int | None = None,
        on_accepted: OnAccepted | None = None,
    ) -> Accepted:
        """Accept what a user said; `on_accepted` is called before others hear of the run.

        Raises UnknownPersona, DeletedSession, PoolFull, LaneBusy, PoolClosed, BrokerDown, BrokerAway.
        """

        def accept() -> Turn:
            return self._turns.say(
                persona_id, text, session_id=session_id, idempotency_key=idempotency_key, tokens_max=tokens_max
            )

        return self._count(lambda: self._turn(accept, self._turns.withdraw, on_accepted))

    def regenerate(self, message_id: str) -> Accepted:
        """Answer again. Raises as `say`, and UnknownMessage and NotEditable."""
        return self._count(lambda: self._turn(lambda: self._turns.regenerate(message_id), _keep))

    def edit(self, message_id: str, text: str) -> Accepted:
        """Replace what a user said. Raises as `say`, and UnknownMessage and NotEditable."""
        return self._count(lambda: self._turn(lambda: self._turns.edit(message_id, text), _keep))

    def go_on(self, message_id: str) -> Accepted:
        """Let a persona go on where its reply was cut off. Raises as `regenerate`."""
        return self._count(lambda: self._turn(lambda: self._turns.go_on(message_id), _keep))

    def complete(self, job: Job, attachment: bytes = b"") -> Accepted:
        """Accept a job that belongs to no conversation. Raises PoolFull, PoolClosed, BrokerDown, BrokerAway."""
        return self._count(lambda: self._completion(job, attachment))

    def stop(self, run_id: str) -> JobRecord:
        """Stop a run: at once when it waits, at its next token when it runs. Raises UnknownJob."""
        record = self._ledger.stop(run_id)
        try:
            if record.state == "cancelled" and record.result is None:
                streams.append(self._client, [end_event(record)])
            elif not record.ended:
                self._client.publish(keys.STOP_CHANNEL, run_id)
        except streams.Fenced:
            pass  # its end has been told
        except (redis.RedisError, OSError) as error:
            log.warning("run %s: the stop stands in the ledger; the broker does not answer (%s)", run_id, error)
        return record

    def forget(self, session_id: str) -> None:
        """Delete a conversation and stop its runs. Raises UnknownSession."""
        for record in self._turns.forget(session_id):
            self.stop(record.id)

    def resend(self, record: JobRecord) -> None:
        """Put a revived job on its queue. Raises BrokerDown; the sweeper then sends it."""
        self._dispatcher.send(record)
        self._ledger.mark_sent(record.id)

    def _count(self, accept: Callable[[], Accepted]) -> Accepted:
        self._hurry()
        began_at = time.time()
        try:
            with self._place():
                accepted = accept()
        except Exception as error:
            self._count_outcome(refusal_of(error).code)
            raise
        self._count_outcome("accepted")
        if self._spans is not None and not accepted.known:
            self._spans.accepted(accepted.run, began_at)
        return accepted

    @contextmanager
    def _place(self) -> Iterator[None]:
        if not self._at_once.acquire(timeout=ACCEPT_WAIT_S):
            raise overloaded()
        try:
            yield
        finally:
            self._at_once.release()

    def _turn(
        self, accept: Callable[[], Turn], take_back: Callable[[Turn], bool], on_accepted: OnAccepted | None = None
    ) -> Accepted:
        self._check_broker()
        turn = accept()
        try:
            if not turn.known:
                self._dispatcher.send(turn.first)
        except BrokerDown:
            if take_back(turn):
                raise
        queued = self._queued(turn.run)
        if not turn.known:
            self._append(queued)
        accepted = Accepted(run=turn.run, turn=turn, queued=queued, known=turn.known)
        if on_accepted is not None:
            on_accepted(accepted)
        if not turn.known:
            self._tell_session(turn.run)
        return accepted

    def _completion(self, job: Job, attachment: bytes) -> Accepted:
        self._check_broker()
        record = self._turns.complete(job, attachment)
        try:
            self._dispatcher.send(record)
        except BrokerDown:
            if self._ledger.stop(record.id).state == "cancelled":
                raise
        queued = self._queued(record)
        self._append(queued)
        return Accepted(run=record, queued=queued)

    def _check_broker(self) -> None:
        try:
            self._client.ping()
        except (redis.RedisError, OSError) as error:
            raise BrokerAway(str(error)) from error

    def _queued(self, record: JobRecord) -> Queued:
        try:
            load = self._ledger.load(record.pool)
        except sqlalchemy.exc.SQLAlchemyError:
            load = PoolLoad(0, 0, None)  # the run is accepted; its place in the queue is told again every second
        position = max(load.queued, 1)
        return Queued(
            run_id=record.id,
            session_id=record.session_id or "",
            seq=streams.number(0, 1),
            position=position,
            wait_s=load.wait_s(position, self._turns.capacity.streams(self._topology.pool(record.pool))),
            persona_id=persona_of(record),
        )

    def _append(self, queued: Queued) -> None:
        try:
            streams.append(self._client, [queued])
        except streams.Fenced:
            log.debug("run %s was begun before it was said to wait", queued.run_id)
        except (redis.RedisError, OSError) as error:
            log.warning("run %s waits unannounced: the broker does not answer (%s)", queued.run_id, error)

    def _tell_session(self, record: JobRecord) -> None:
        try:
            self._client.publish(keys.session_channel(record.session_id or ""), record.id)
        except (redis.RedisError, OSError) as error:
            log.warning("other tabs do not hear of run %s: the broker does not answer (%s)", record.id, error)


def overloaded() -> Refusal:
    """For one who waited ACCEPT_WAIT_S in vain."""
    detail = "More is coming in than can be written down; try again in a moment."
    return Refusal(503, "overloaded", "Overloaded", detail, retry_after_s=RETRY_SOON_S)


def _keep(_turn: Turn) -> bool:
    """A regeneration or edit is not taken back: what it replaced is gone, and the sweeper sends its hint.

    A reply that goes on has no message of a person that could be.
    """
    return False
