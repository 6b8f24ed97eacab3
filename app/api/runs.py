"""Runs: watching one, stopping one."""

from __future__ import annotations

import msgspec
from flask import Response

from app.api.shapes import EventsQuery, RunState, RunView
from app.endings import RETOLD_FROM
from app.relay import persona_of
from app.services import Services
from app.session import settled
from app.sse import resume_after, stream
from app.web import Answer, Call
from reef import streams
from reef.contracts.jobs import ChatJob
from reef.ledger import JobRecord


def get(call: Call, run_id: str) -> RunView:
    """Read a run."""
    record = call.services.ledger.get(run_id)
    position = None
    if record.state == "queued":
        position = call.services.ledger.positions(record.pool).get(run_id)
    reply_id = None
    if record.task == ChatJob.TASK:
        reply_id = msgspec.json.decode(record.payload, type=ChatJob).reply_message_id
    return RunView(
        run_id=record.id,
        session_id=record.session_id,
        persona_id=persona_of(record) or None,
        state=record.state,
        attempts=record.attempts,
        attempts_max=record.attempts_max,
        stop_requested=record.stop_requested,
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        error=record.error,
        position=position,
        reply_message_id=reply_id,
    )


def events(call: Call, run_id: str) -> Response | Answer:
    """Watch a run as server-sent events, from after the last one seen; 204 where that was its end."""
    query: EventsQuery = call.query
    services = call.services
    after = resume_after(query.after)
    record = services.ledger.get(run_id)
    if told_all(services, record, after):
        return Answer(status=204)
    return stream(
        services,
        lambda listener: listener.follow(run_id, after, ended=record if settled(record) else None),
    )


def stop(call: Call, run_id: str) -> RunState:
    """Stop a run; stopping one that ended is no error."""
    record = call.services.desk.stop(run_id)
    return RunState(record.id, record.state)


def told_all(services: Services, record: JobRecord, after: int) -> bool:
    """Whether a client that saw this number has seen the end of the run."""
    if not record.ended or not after:
        return False
    return after >= _last_number(streams.last_seq(services.redis, record.id), record)


def _last_number(stored: int, record: JobRecord) -> int:
    return stored or streams.number(record.token, RETOLD_FROM + 2)
