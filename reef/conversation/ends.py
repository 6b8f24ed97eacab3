"""Telling a run's watchers what no worker can: that its worker died and it begins anew, or how it ended.

A job ends without a worker where it was buried, was overdue, or was stopped in the queue.
"""

from __future__ import annotations

import msgspec
import redis

from reef import streams
from reef.contracts.events import Error, Event, Restarted, Stopped, Usage
from reef.contracts.jobs import ChatJob, CompletionJob
from reef.conversation import store
from reef.ledger.model import JobRecord
from reef.records.database import Database

LAST_WORD = streams.NUMBERS_PER_CLAIM - 1
"""The end is numbered after everything its last worker can have written, and before the next claim."""
DEATH = LAST_WORD - 1
"""Its worker's death is numbered likewise: the run may still end before the next claim."""
WATCHED = frozenset({ChatJob.TASK, CompletionJob.TASK})
"""Jobs whose runs somebody reads while they are written."""


def end_event(job: JobRecord) -> Event:
    """The final event of a job that ended without a reply."""
    seq = streams.number(job.token, LAST_WORD)
    ids = {"run_id": job.id, "session_id": job.session_id or "", "seq": seq}
    if job.state == "cancelled":
        return Stopped(usage=Usage(0, 0), message_id=None, **ids)  # type: ignore[arg-type]
    tried = f" (tried {job.attempts} times)" if job.attempts > 1 else ""
    message = f"No reply could be written: {(job.error or 'unknown reason').rstrip('.')}{tried}."
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


def announce_death(client: redis.Redis, job: JobRecord) -> None:
    """Tell that the worker of a job died, which waits for another now.

    The next worker says so too, but it may be seconds until there is one, and one that hangs in its first call says
    nothing at all. Raises redis.RedisError.
    """
    if job.task not in WATCHED:
        return
    restarted = Restarted(
        reason=job.error or "its worker died",
        run_id=job.id,
        session_id=job.session_id or "",
        seq=streams.number(job.token, DEATH),
    )
    try:
        streams.append(client, [restarted])
    except streams.Fenced:
        return  # another worker speaks already


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
