"""Telling a run's watchers how it ended when no worker could: the job was buried, overdue, or stopped in the queue."""

from __future__ import annotations

import msgspec
import redis

from reef import streams
from reef.contracts.events import Error, Event, Stopped, Usage
from reef.contracts.jobs import ChatJob
from reef.conversation import store
from reef.ledger.model import JobRecord
from reef.records.database import Database

LAST_WORD = streams.NUMBERS_PER_CLAIM - 1
"""The end is numbered after everything its last worker can have written, and before the next claim."""


def end_event(job: JobRecord) -> Event:
    """The final event of a job that ended without a reply."""
    seq = streams.number(job.token, LAST_WORD)
    ids = {"run_id": job.id, "session_id": job.session_id or "", "seq": seq}
    if job.state == "cancelled":
        return Stopped(usage=Usage(0, 0), message_id=None, **ids)  # type: ignore[arg-type]
    tried = f" (tried {job.attempts} times)" if job.attempts > 1 else ""
    message = f"No reply could be written: {job.error or 'unknown reason'}{tried}."
    return Error(code=job.state, message=message, **ids)  # type: ignore[arg-type]


def announce_end(database: Database, client: redis.Redis, job: JobRecord) -> None:
    """Write the final event of an ended job, and for a chat a failed message, so that its history shows it.

    Raises redis.RedisError; the front door finds the end in the ledger too.
    """
    if job.state in ("dead", "failed") and job.task == ChatJob.TASK:
        _store_failure(database, job)
    try:
        streams.append(client, [end_event(job)])
    except streams.Fenced:
        return  # its end has been told


def _store_failure(database: Database, job: JobRecord) -> None:
    chat = msgspec.json.decode(job.payload, type=ChatJob)
    with database.write() as connection:
        try:
            store.find_session(connection, chat.session_id)
        except store.UnknownSession:
            return
        try:
            store.find_message(connection, chat.reply_message_id)
        except store.UnknownMessage:
            store.add_message(
                connection,
                store.new_message(
                    chat.session_id,
                    "assistant",
                    "",
                    id=chat.reply_message_id,
                    persona_id=chat.persona_id,
                    state="failed",
                    run_id=job.id,
                ),
            )
