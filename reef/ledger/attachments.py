"""Bytes that a job works on, kept beside its row: accepted with it, forgotten soon after its end.

A job changes its row four times on its way, and a database writes the whole row each time. Knows no kind of job.
"""

from __future__ import annotations

import sqlalchemy as sa

from reef.records.database import Database
from reef.records.tables import attachments, jobs

_READ = sa.select(attachments.c.data).where(attachments.c.job_id == sa.bindparam("of_job"))
_OF_ENDED = sa.select(attachments.c.job_id).join(jobs).where(jobs.c.state.in_(("done", "failed", "cancelled")))


def attach(connection: sa.Connection, job_id: str, data: bytes) -> None:
    """Keep these bytes with a job that is being accepted."""
    connection.execute(attachments.insert(), {"job_id": job_id, "data": data})


def read_attachment(database: Database, job_id: str) -> bytes | None:
    """A job's bytes; None where it has none, or ended."""
    with database.read() as connection:
        data: bytes | None = connection.execute(_READ, {"of_job": job_id}).scalar()
        return data


def forget_attachments(database: Database) -> int:
    """Drop those of ended jobs; a dead job keeps its own, it may be tried again. Gives how many went.

    Freeing 5 MB takes SQLite 10 ms: the sweeper's time, not a device's.
    """
    with database.read() as connection:
        ended = list(connection.execute(_OF_ENDED).scalars())
    if ended:
        with database.write() as connection:
            connection.execute(attachments.delete().where(attachments.c.job_id.in_(ended)))
    return len(ended)
