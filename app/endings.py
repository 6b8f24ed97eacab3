"""How a run ended, told from the database: for watchers whose stream has no end any more, or never had one."""

from __future__ import annotations

from typing import Any

import msgspec

from reef import streams
from reef.contracts.events import Done, Error, Event, Metrics, Restarted, Stopped, Token, Usage
from reef.conversation import store
from reef.conversation.ends import end_event
from reef.ledger import JobRecord
from reef.records.database import Database

RETOLD_FROM = 900_001
"""Numbers of what is retold here: after everything that a worker wrote under the same claim."""
NO_USAGE = Usage(0, 0)


class _Result(msgspec.Struct, frozen=True):
    usage: Usage = NO_USAGE
    metrics: Metrics = Metrics()
    finish_reason: str = "stop"
    message_id: str | None = None
    content: str = ""


def ending(database: Database, record: JobRecord, chars_heard: int | None) -> list[Event]:
    """The events that finish an ended run for a client that has that many characters of its text (None: unknown)."""
    if record.result is None:
        return [end_event(record)]
    result = msgspec.json.decode(record.result, type=_Result)
    ids: dict[str, Any] = {"run_id": record.id, "session_id": record.session_id or ""}
    final_seq = streams.number(record.token, RETOLD_FROM + 2)
    text = result.content
    if result.message_id is not None:
        try:
            with database.read() as connection:
                text = store.find_message(connection, result.message_id).content
        except store.UnknownMessage:
            return [Error(code="deleted", message="This reply was deleted.", seq=final_seq, **ids)]
    events: list[Event] = []
    if chars_heard != len(text):
        reason = "the reply is told again from the records"
        events.append(Restarted(reason=reason, seq=final_seq - 2, **ids))
        if text:
            events.append(Token(content=text, seq=final_seq - 1, **ids))
    if record.state == "cancelled":
        events.append(Stopped(usage=result.usage, message_id=result.message_id, seq=final_seq, **ids))
    else:
        events.append(
            Done(
                usage=result.usage,
                message_id=result.message_id or "",
                finish_reason="length" if result.finish_reason == "length" else "stop",
                metrics=result.metrics,
                seq=final_seq,
                **ids,
            )
        )
    return events


def gone(run_id: str) -> JobRecord:
    """What stands for a run that the ledger does not have any more."""
    return JobRecord(
        id=run_id,
        task="",
        pool="",
        payload="{}",
        state="failed",
        session_id=None,
        token=0,
        attempts=0,
        attempts_max=0,
        owner=None,
        stop_requested=False,
        created_at=0.0,
        started_at=None,
        finished_at=None,
        deadline_at=0.0,
        not_before=0.0,
        result=None,
        error="it was withdrawn or deleted",
    )
