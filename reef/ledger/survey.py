"""The ledger as the operator looks at it: how long each queue is and since when, which jobs run, wait or were given up.

Reads, and takes from the list what a person gave up; moving jobs on is ledger.py's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from reef.contracts.system import JobView
from reef.ledger.ledger import Ledger
from reef.ledger.model import JobRecord, PoolLoad, UnknownJob
from reef.records.tables import ACTIVE_STATES, jobs, personas, sessions

Listed = Literal["running", "queued", "dead"]
PAYLOAD_READ_MAX = 64 * 1024
"""A longer payload is not looked into for its persona and files: a list of jobs must stay cheap."""

_FIELDS = [name for name in JobView.__struct_fields__ if name in jobs.c]
_ACTIVE = (
    sa.select(jobs.c.pool, jobs.c.state, sa.func.count(), sa.func.min(jobs.c.created_at))
    .where(jobs.c.state.in_(ACTIVE_STATES))
    .group_by(jobs.c.pool, jobs.c.state)
)
_ORDER: dict[str, sa.ColumnElement[Any]] = {
    "running": jobs.c.started_at.asc(),
    "queued": jobs.c.created_at.asc(),
    "dead": jobs.c.finished_at.desc(),
}


class NotGivenUp(Exception):
    """The job may still run, or ended otherwise: there is nothing to discard."""


class Queue(msgspec.Struct, frozen=True):
    """A pool's jobs. `oldest_at`: when the one that waits longest was accepted, None where none waits."""

    load: PoolLoad
    oldest_at: float | None


class _About(msgspec.Struct, frozen=True):
    """What a payload says that a person wants to know."""

    persona_id: str | None = None
    document_ids: list[str] = []
    model: str = ""


def survey(ledger: Ledger, pools: Iterable[str]) -> dict[str, Queue]:
    """Every one of these pools, in one look."""
    with ledger.database.read() as connection:
        found = {(pool, state): (count, oldest) for pool, state, count, oldest in connection.execute(_ACTIVE)}
        queues = {}
        for pool in pools:
            queued, oldest = found.get((pool, "queued"), (0, None))
            running, _ = found.get((pool, "running"), (0, None))
            queues[pool] = Queue(PoolLoad(queued, running, ledger.job_seconds(connection, pool)), oldest)
        return queues


def list_jobs(ledger: Ledger, state: Listed, limit: int, pool: str = "") -> list[JobView]:
    """Jobs in this state: the longest running or waiting first, of the dead the newest."""
    payload = sa.case((sa.func.length(jobs.c.payload) <= PAYLOAD_READ_MAX, jobs.c.payload), else_="{}")
    query = (
        sa.select(
            *[jobs.c[name] for name in _FIELDS],
            jobs.c.owner.label("node"),
            payload.label("payload"),
            sa.func.coalesce(sessions.c.title, "").label("session_title"),
        )
        .join_from(jobs, sessions, sessions.c.id == jobs.c.session_id, isouter=True)
        .where(jobs.c.state == state)
        .order_by(_ORDER[state], jobs.c.id)
        .limit(limit)
    )
    if pool:
        query = query.where(jobs.c.pool == pool)
    with ledger.database.read() as connection:
        rows = [dict(row) for row in connection.execute(query).mappings()]
        abouts = [_about(row.pop("payload")) for row in rows]
        names = _names(connection, {about.persona_id for about in abouts if about.persona_id})
    return [_view(row, about, names) for row, about in zip(rows, abouts, strict=True)]


def discard(ledger: Ledger, job_id: str) -> None:
    """Forget a job that was given up. Raises UnknownJob and NotGivenUp."""
    with ledger.database.write() as connection:
        row = connection.execute(sa.select(jobs.c.state).where(jobs.c.id == job_id)).scalar()
        if row is None:
            raise UnknownJob(job_id)
        if row not in ("dead", "failed"):
            raise NotGivenUp(f"This job is {row}; only dead and failed ones can be discarded.")
        connection.execute(jobs.delete().where(jobs.c.id == job_id, jobs.c.state == row))


def one_job(ledger: Ledger, record: JobRecord) -> JobView:
    """A job that was just read, as the lists show it."""
    about = _about(record.payload)
    with ledger.database.read() as connection:
        names = _names(connection, {about.persona_id} if about.persona_id else set())
        title = connection.execute(sa.select(sessions.c.title).where(sessions.c.id == record.session_id)).scalar()
    row = {name: getattr(record, name) for name in _FIELDS} | {"node": record.owner, "session_title": title or ""}
    return _view(row, about, names)


def _names(connection: sa.Connection, ids: set[str]) -> dict[str, str]:
    if not ids:
        return {}
    rows = connection.execute(sa.select(personas.c.id, personas.c.name).where(personas.c.id.in_(sorted(ids))))
    return dict(rows.all())


def _about(payload: str) -> _About:
    try:
        return msgspec.json.decode(payload, type=_About)
    except msgspec.DecodeError:
        return _About()  # a kind of job that this version does not know


def _view(row: Mapping[str, Any], about: _About, names: Mapping[str, str]) -> JobView:
    persona = about.persona_id or ""
    return JobView(
        **row,
        persona_id=persona,
        persona_name=names.get(persona, persona),
        documents=len(about.document_ids),
        model=about.model,
    )
