"""Bytes that a job works on, kept beside its row: accepted with it, forgotten when it ended.

A job changes its row four times on its way, and a database writes the whole row each time. Knows no kind of job.
"""

from __future__ import annotations

import sqlalchemy as sa

from reef.records.database import Database
from reef.records.tables import attachments

_READ = sa.select(attachments.c.data).where(attachments.c.job_id == sa.bindparam("of_job"))
_FORGET = attachments.delete().where(attachments.c.job_id == sa.bindparam("of_job"))


def attach(connection: sa.Connection, job_id: str, data: bytes) -> None:
    """Keep these bytes with a job that is being accepted."""
    connection.execute(attachments.insert(), {"job_id": job_id, "data": data})


def read_attachment(database: Database, job_id: str) -> bytes | None:
    """A job's bytes; None where it has none, or ended."""
    with database.read() as connection:
        data: bytes | None = connection.execute(_READ, {"of_job": job_id}).scalar()
        return data


def forget_attachment(connection: sa.Connection, job_id: str) -> None:
    """The job has ended: nobody reads them again."""
    connection.execute(_FORGET, {"of_job": job_id})
