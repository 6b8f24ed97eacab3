"""The sweeper's round: what puts a job back on a queue when its hint or its worker was lost, and ends what is overdue.

Several sweepers may run at once (several hosts): every change is conditional, and a doubled hint is harmless.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import sqlalchemy as sa

from reef.ledger.ledger import Ledger, free
from reef.ledger.model import JobRecord
from reef.ledger.statements import as_record
from reef.records.tables import ACTIVE_STATES, jobs

RESEND_AFTER_S = 5.0
"""A hint that was not taken this long is sent again."""
RESEND_MAX = 200
"""Hints sent in one round."""
KEEP_ENDED_S = 30 * 86_400.0
"""Ended jobs are kept this long for the operator, then deleted."""


class Swept(msgspec.Struct, frozen=True):
    """What one round did."""

    resent: int
    ended: list[JobRecord]
    """Jobs that this round ended as dead, failed or cancelled: somebody should be told."""


def sweep(
    ledger: Ledger,
    send: Callable[[JobRecord], None],
    pending: Callable[[str], int],
    *,
    resend_after_s: float = RESEND_AFTER_S,
) -> Swept:
    """One round. `send` puts a hint on the right queue and may raise: the job is then tried in the next round.

    `pending` counts the hints on a pool's queues. As long as there is one for each waiting job nothing was lost and
    nothing is sent again: else a long queue would fill up with copies of its own hints.
    """
    now = ledger.clock()
    with ledger.database.write() as connection:
        suspects = _suspects(connection, now)
        expired = sa.and_(jobs.c.state == "running", jobs.c.lease_until < now)
        free(connection, expired, now, "its worker stopped renewing the lease")
        _end_overdue(connection, now)
        ended = _ended_among(connection, suspects)
        waiting = _waiting(connection, now, resend_after_s)
    resent = 0
    for pool, candidates in waiting.items():
        missing = len(candidates) - pending(pool)
        for job, never_sent in candidates[:RESEND_MAX]:
            if never_sent or missing > 0:
                send(job)
                ledger.mark_sent(job.id)
                missing -= 1
                resent += 1
    return Swept(resent, ended)


def forget_ended(ledger: Ledger, keep_s: float = KEEP_ENDED_S) -> int:
    """Delete jobs that ended long ago; dead ones stay until somebody looked. Gives how many went."""
    with ledger.database.write() as connection:
        gone = connection.execute(
            jobs.delete().where(
                jobs.c.state.in_(("done", "failed", "cancelled")), jobs.c.finished_at < ledger.clock() - keep_s
            )
        )
        return gone.rowcount


def _suspects(connection: sa.Connection, now: float) -> list[str]:
    query = sa.select(jobs.c.id).where(
        jobs.c.state.in_(ACTIVE_STATES),
        sa.or_(
            sa.and_(jobs.c.state == "running", jobs.c.lease_until < now),
            jobs.c.deadline_at < now,
            sa.and_(jobs.c.state == "queued", jobs.c.stop_requested),
        ),
    )
    return list(connection.execute(query).scalars())


def _end_overdue(connection: sa.Connection, now: float) -> None:
    late = sa.and_(jobs.c.state.in_(ACTIVE_STATES), jobs.c.deadline_at < now)
    # a new token fences off the worker that may still be at it
    connection.execute(
        jobs.update()
        .where(late)
        .values(state="failed", error="it was not done by its deadline", finished_at=now, token=jobs.c.token + 1)
    )
    connection.execute(
        jobs.update().where(jobs.c.state == "queued", jobs.c.stop_requested).values(state="cancelled", finished_at=now)
    )


def _ended_among(connection: sa.Connection, ids: list[str]) -> list[JobRecord]:
    query = sa.select(jobs).where(jobs.c.id.in_(ids), ~jobs.c.state.in_(ACTIVE_STATES))
    columns = JobRecord.__struct_fields__
    return [as_record({name: row[name] for name in columns}) for row in connection.execute(query).mappings()]


def _waiting(connection: sa.Connection, now: float, resend_after_s: float) -> dict[str, list[tuple[JobRecord, bool]]]:
    """Jobs that are due and whose hint is old or was never sent (the flag), by pool, longest silent first."""
    query = (
        sa.select(*[jobs.c[name] for name in JobRecord.__struct_fields__], jobs.c.sent_at)
        .where(jobs.c.state == "queued", jobs.c.not_before <= now, jobs.c.sent_at < now - resend_after_s)
        .order_by(jobs.c.sent_at, jobs.c.created_at)
    )
    waiting: dict[str, list[tuple[JobRecord, bool]]] = {}
    for row in connection.execute(query).mappings():
        values = dict(row)
        never_sent = values.pop("sent_at") == 0.0
        record = as_record(values)
        waiting.setdefault(record.pool, []).append((record, never_sent))
    return waiting
