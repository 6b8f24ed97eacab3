"""The statements of every turn, built once: building them costs more than running them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import sqlalchemy as sa

from reef.ledger.model import Claim, JobRecord
from reef.records.tables import ACTIVE_STATES, jobs

RECENT_JOBS = 20
"""Estimates of waiting time rest on this many of a pool's last jobs."""
RECORD = [jobs.c[name] for name in JobRecord.__struct_fields__]

BY_ID = sa.select(*RECORD).where(jobs.c.id == sa.bindparam("job_id"))
BY_KEY = sa.select(*RECORD).where(jobs.c.idempotency_key == sa.bindparam("key"))
LANE_HOLDER = sa.select(jobs.c.id).where(jobs.c.lane == sa.bindparam("of_lane"), jobs.c.state.in_(ACTIVE_STATES))
BY_STATE = (
    sa.select(jobs.c.state, sa.func.count())
    .where(jobs.c.pool == sa.bindparam("of_pool"), jobs.c.state.in_(ACTIVE_STATES))
    .group_by(jobs.c.state)
)
_RECENT = (
    sa.select((jobs.c.finished_at - jobs.c.started_at).label("seconds"))
    .where(jobs.c.pool == sa.bindparam("of_pool"), jobs.c.state == "done")
    .order_by(jobs.c.created_at.desc())
    .limit(RECENT_JOBS)
    .subquery()
)
JOB_SECONDS = sa.select(sa.func.avg(_RECENT.c.seconds))
INSERT = jobs.insert()
_NOW, _LEASE = sa.bindparam("now", type_=sa.Double), sa.bindparam("lease", type_=sa.Double)
_OTHER = jobs.alias("other")
_A_LAST_ATTEMPT_RUNS_HERE = sa.exists().where(
    _OTHER.c.owner == sa.bindparam("new_owner"),
    _OTHER.c.state == "running",
    _OTHER.c.attempts >= _OTHER.c.attempts_max,
)
CLAIM = (
    jobs.update()
    .where(
        jobs.c.id == sa.bindparam("job_id"),
        jobs.c.attempts < jobs.c.attempts_max,
        jobs.c.deadline_at > _NOW,
        ~jobs.c.stop_requested,
        sa.or_(
            sa.and_(jobs.c.state == "queued", jobs.c.not_before <= _NOW),
            sa.and_(jobs.c.state == "running", jobs.c.lease_until < _NOW),
        ),
        # a job on its last attempt may be what kills workers: two of them never share one (ledger.free)
        sa.or_(jobs.c.attempts == 0, jobs.c.attempts < jobs.c.attempts_max - 1, ~_A_LAST_ATTEMPT_RUNS_HERE),
    )
    .values(
        state="running",
        owner=sa.bindparam("new_owner"),
        token=jobs.c.token + 1,
        attempts=jobs.c.attempts + 1,
        lease_until=_LEASE,
        started_at=_NOW,
    )
    .returning(*RECORD)
)
SEND_SOON = (
    jobs.update()
    .where(jobs.c.id == sa.bindparam("job_id"), jobs.c.state == "queued", jobs.c.attempts > 0)
    .values(sent_at=0.0)
)
MINE = sa.and_(jobs.c.id == sa.bindparam("job_id"), jobs.c.token == sa.bindparam("my_token"), jobs.c.state == "running")
RENEW = jobs.update().where(MINE).values(lease_until=_LEASE)
FINISH = (
    jobs.update()
    .where(MINE)
    .values(
        state=sa.bindparam("new_state"),
        finished_at=_NOW,
        result=sa.bindparam("new_result"),
        error=sa.bindparam("new_error"),
    )
)
STOPS = sa.select(jobs.c.id).where(
    jobs.c.owner == sa.bindparam("of_owner"), jobs.c.state == "running", jobs.c.stop_requested
)


def mine(claim: Claim) -> dict[str, Any]:
    """What MINE is to be filled with: a job that this claim holds."""
    return {"job_id": claim.job.id, "my_token": claim.token}


def as_record(row: Mapping[Any, Any]) -> JobRecord:
    """A row of the columns of JobRecord as a value."""
    return JobRecord(**row)
