"""Moving jobs between their states: accept, claim, renew, end, stop, release. Re-sending is in sweep.py.

Clocks: leases compare Unix times of the hosts that claim and sweep; keep them within a second (NTP).
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from reef.contracts.jobs import Job
from reef.ledger import statements
from reef.ledger.attachments import attach
from reef.ledger.model import Claim, JobRecord, LaneBusy, NewJob, PoolFull, PoolLoad, UnknownJob, as_json
from reef.ledger.statements import MINE, RECORD, as_record, mine
from reef.records.database import Database
from reef.records.tables import ACTIVE_STATES, jobs

MEASURED_EVERY_S = 1.0

Within = Callable[[sa.Connection], None]


class Ledger:
    """The jobs of one database. Safe to share between threads and greenlets."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database = database
        self.clock = clock
        self._measured: dict[str, tuple[float, float | None]] = {}

    # --- accepting

    def submit(self, connection: sa.Connection, new: NewJob, *, waiting_max: int, streams: int) -> JobRecord:
        """Accept a job inside the caller's transaction. A known idempotency key gives the job accepted first.

        Raises PoolFull at the pool's limit and LaneBusy while another job of the lane is active.
        """
        if new.idempotency_key and (known := self._by_key(connection, new.idempotency_key)):
            return known
        pool = type(new.job).POOL
        load = self._load(connection, pool)
        if load.queued >= waiting_max:
            raise PoolFull(pool, load.queued, load.wait_s(load.queued + 1, streams))
        now = self.clock()
        values = _row(new, now)
        try:
            with connection.begin_nested() if connection.dialect.name == "postgresql" else nullcontext():
                connection.execute(statements.INSERT, values)
                if new.attachment:
                    attach(connection, values["id"], new.attachment)
        except IntegrityError:  # the lane is taken, or another transaction was faster with this key
            if new.idempotency_key and (known := self._by_key(connection, new.idempotency_key)):
                return known
            if new.lane and (busy := self._lane_holder(connection, new.lane)):
                raise LaneBusy(busy) from None
            raise
        return as_record({name: values.get(name) for name in JobRecord.__struct_fields__})

    def _by_key(self, connection: sa.Connection, key: str) -> JobRecord | None:
        row = connection.execute(statements.BY_KEY, {"key": key}).mappings().first()
        return as_record(row) if row else None

    @staticmethod
    def _lane_holder(connection: sa.Connection, lane: str) -> str | None:
        return connection.execute(statements.LANE_HOLDER, {"of_lane": lane}).scalar()

    # --- a worker's side

    def claim(self, job_id: str, owner: str, lease_s: float) -> Claim | None:
        """Take the job, or None where it is taken, over, not due, or was stopped."""
        now = self.clock()
        values = {"job_id": job_id, "now": now, "lease": now + lease_s, "new_owner": owner}
        with self.database.write() as connection:
            row = connection.execute(statements.CLAIM, values).mappings().first()
            if row is None:  # it may have to wait for its turn on this worker: its hint is used up
                connection.execute(statements.SEND_SOON, {"job_id": job_id})
        if row is None:
            return None
        record = as_record(row)
        return Claim(record, record.token, owner)

    def renew(self, claims: Iterable[Claim], lease_s: float) -> set[str]:
        """Prolong these leases in one transaction; the ids of jobs that are no longer theirs come back.

        A job whose stop was asked for keeps its lease: read `stops` for that.
        """
        lost: set[str] = set()
        now = self.clock()
        with self.database.write() as connection:
            for claim in claims:
                done = connection.execute(statements.RENEW, mine(claim) | {"lease": now + lease_s})
                if done.rowcount != 1:
                    lost.add(claim.job.id)
        return lost

    def stops(self, owner: str) -> set[str]:
        """Ids of this owner's running jobs that somebody asked to stop."""
        with self.database.read() as connection:
            return set(connection.execute(statements.STOPS, {"of_owner": owner}).scalars())

    def finish(
        self,
        claim: Claim,
        state: str,
        *,
        result: Mapping[str, Any] | None = None,
        error: str | None = None,
        within: Within | None = None,
    ) -> bool:
        """End the job as done, failed or cancelled; `within` writes its effects in the same transaction.

        False, and no effect, where the claim was lost: a fenced-off worker can write nothing.
        """
        values = {
            "new_state": state,
            "now": self.clock(),
            "new_result": None if result is None else as_json(result),
            "new_error": error,
        }
        with self.database.write() as connection:
            done = connection.execute(statements.FINISH, mine(claim) | values)
            if done.rowcount != 1:
                return False
            if within is not None:
                within(connection)
        return True

    def retry_later(self, claim: Claim, error: str, delay_s: float) -> str:
        """Put a failed attempt back with a delay, or bury it when its attempts are used up. Gives the new state."""
        now = self.clock()
        dead = claim.job.attempts >= claim.job.attempts_max
        values: dict[str, Any] = {"state": "dead" if dead else "queued", "error": error, "owner": None}
        values |= {"finished_at": now} if dead else {"not_before": now + delay_s, "sent_at": 0.0}
        with self.database.write() as connection:
            done = connection.execute(jobs.update().where(MINE).values(values), mine(claim))
        return values["state"] if done.rowcount == 1 else "lost"

    def hand_back(self, claim: Claim) -> bool:
        """Give the job back unharmed (a worker that stops): the attempt does not count."""
        values = {"state": "queued", "owner": None, "sent_at": 0.0, "attempts": jobs.c.attempts - 1}
        with self.database.write() as connection:
            return connection.execute(jobs.update().where(MINE).values(values), mine(claim)).rowcount == 1

    def release(self, connection: sa.Connection, job_id: str, job: Job) -> JobRecord | None:
        """Let a delayed job begin, with what the job before it found out; its hint is then to be sent.

        None where it has begun already, or ended: then it is left as it is.
        """
        row = connection.execute(
            jobs.update()
            .where(jobs.c.id == job_id, jobs.c.state == "queued", jobs.c.token == 0)
            .values(payload=as_json(job), not_before=0.0, sent_at=self.clock())
            .returning(*RECORD)
        )
        found = row.mappings().first()
        return None if found is None else as_record(found)

    # --- everybody's side

    def stop(self, job_id: str) -> JobRecord:
        """Ask a job to stop: at once when it waits, at its next token when it runs, nothing when it ended.

        Raises UnknownJob.
        """
        now = self.clock()
        with self.database.write() as connection:
            connection.execute(
                jobs.update()
                .where(jobs.c.id == job_id, jobs.c.state == "queued")
                .values(state="cancelled", finished_at=now, stop_requested=True)
            )
            connection.execute(
                jobs.update().where(jobs.c.id == job_id, jobs.c.state == "running").values(stop_requested=True)
            )
            return self._get(connection, job_id)

    def release_owner(self, owner: str) -> list[JobRecord]:
        """A worker is known to be dead: its jobs are free at once. Gives the jobs that were its own."""
        now = self.clock()
        his = sa.and_(jobs.c.owner == owner, jobs.c.state == "running")
        with self.database.write() as connection:
            ids = list(connection.execute(sa.select(jobs.c.id).where(his)).scalars())
            free(connection, his, now, f"worker {owner} died")
            query = sa.select(*RECORD).where(jobs.c.id.in_(ids))
            return [as_record(row) for row in connection.execute(query).mappings()]

    def get(self, job_id: str) -> JobRecord:
        """The job of that id. Raises UnknownJob."""
        with self.database.read() as connection:
            return self._get(connection, job_id)

    def take_result(self, job_id: str) -> str | None:
        """The result of a job, which the ledger then forgets: it was for one reader. Raises UnknownJob."""
        with self.database.write() as connection:
            record = self._get(connection, job_id)
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(result=None))
        return record.result

    def get_many(self, job_ids: Iterable[str]) -> dict[str, JobRecord]:
        """Those of these jobs that exist, by id."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(*RECORD).where(jobs.c.id.in_(list(job_ids)))).mappings()
            return {row["id"]: as_record(row) for row in rows}

    @staticmethod
    def _get(connection: sa.Connection, job_id: str) -> JobRecord:
        row = connection.execute(statements.BY_ID, {"job_id": job_id}).mappings().first()
        if row is None:
            raise UnknownJob(job_id)
        return as_record(row)

    def active(self, session_id: str) -> list[JobRecord]:
        """Jobs of a session that have not ended, oldest first."""
        query = (
            sa.select(*RECORD)
            .where(jobs.c.session_id == session_id, jobs.c.state.in_(ACTIVE_STATES))
            .order_by(jobs.c.created_at)
        )
        with self.database.read() as connection:
            return [as_record(row) for row in connection.execute(query).mappings()]

    def active_of(self, task: str) -> list[JobRecord]:
        """Jobs of one kind that have not ended, oldest first."""
        query = (
            sa.select(*RECORD).where(jobs.c.task == task, jobs.c.state.in_(ACTIVE_STATES)).order_by(jobs.c.created_at)
        )
        with self.database.read() as connection:
            return [as_record(row) for row in connection.execute(query).mappings()]

    def load(self, pool: str) -> PoolLoad:
        """How busy a pool is."""
        with self.database.read() as connection:
            return self._load(connection, pool)

    def _load(self, connection: sa.Connection, pool: str) -> PoolLoad:
        counts: dict[str, int] = dict(connection.execute(statements.BY_STATE, {"of_pool": pool}).all())
        seconds = self.job_seconds(connection, pool)
        return PoolLoad(counts.get("queued", 0), counts.get("running", 0), seconds)

    def job_seconds(self, connection: sa.Connection, pool: str) -> float | None:
        """Mean run time of the pool's last jobs, read again when a second has passed."""
        now = self.clock()
        known = self._measured.get(pool)
        if known is None or not 0.0 <= now - known[0] < MEASURED_EVERY_S:
            known = (now, connection.execute(statements.JOB_SECONDS, {"of_pool": pool}).scalar())
            self._measured[pool] = known
        return known[1]

    def positions(self, pool: str) -> dict[str, int]:
        """Place in the queue (1 is next) of every waiting job of a pool."""
        query = (
            sa.select(jobs.c.id)
            .where(jobs.c.pool == pool, jobs.c.state == "queued")
            .order_by(jobs.c.created_at, jobs.c.id)
        )
        with self.database.read() as connection:
            return {job_id: place for place, job_id in enumerate(connection.execute(query).scalars(), start=1)}

    def counts(self) -> dict[str, int]:
        """Number of jobs in each state."""
        with self.database.read() as connection:
            rows = connection.execute(sa.select(jobs.c.state, sa.func.count()).group_by(jobs.c.state))
            return dict(rows.all())

    def dead(self, limit: int = 100) -> list[JobRecord]:
        """Jobs whose attempts are used up, newest first."""
        query = sa.select(*RECORD).where(jobs.c.state == "dead").order_by(jobs.c.finished_at.desc()).limit(limit)
        with self.database.read() as connection:
            return [as_record(row) for row in connection.execute(query).mappings()]

    def revive(self, job_id: str, deadline_s: float) -> JobRecord:
        """Give a dead or failed job a new set of attempts. Raises UnknownJob; LaneBusy where its lane was taken."""
        now = self.clock()
        with self.database.write() as connection:
            job = self._get(connection, job_id)
            try:
                connection.execute(
                    jobs.update()
                    .where(jobs.c.id == job_id, jobs.c.state.in_(("dead", "failed")))
                    .values(
                        state="queued",
                        attempts=0,
                        owner=None,
                        stop_requested=False,
                        not_before=0.0,
                        sent_at=0.0,
                        deadline_at=now + deadline_s,
                        finished_at=None,
                    )
                )
            except IntegrityError:
                raise LaneBusy(job.id) from None
            return self._get(connection, job_id)

    def mark_sent(self, job_id: str) -> None:
        """Note that a hint for this job was put on a queue now."""
        with self.database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.id == job_id).values(sent_at=self.clock()))


def free(connection: sa.Connection, which: sa.ColumnElement[bool], now: float, reason: str) -> None:
    """Running jobs whose worker is gone: stopped ones end, exhausted ones are buried, the rest wait again.

    Blame: a worker runs at most one job that is on its last attempt. If there was one, it is what the death is
    blamed on, and the attempt of the jobs beside it does not count: one poisonous job cannot bury its neighbours.
    """
    ended = {"finished_at": now, "owner": None}
    last = sa.and_(which, ~jobs.c.stop_requested, jobs.c.attempts >= jobs.c.attempts_max)
    blamed = set(connection.execute(sa.select(jobs.c.owner).where(last)).scalars())
    connection.execute(
        jobs.update().where(which, jobs.c.stop_requested).values(state="cancelled", error=reason, **ended)
    )
    connection.execute(jobs.update().where(last).values(state="dead", error=reason, **ended))
    waits = {"state": "queued", "owner": None, "sent_at": 0.0, "error": reason}
    if blamed:
        beside = sa.and_(which, jobs.c.owner.in_(blamed))
        connection.execute(jobs.update().where(beside).values(attempts=jobs.c.attempts - 1, **waits))
    connection.execute(jobs.update().where(which).values(**waits))


def _row(new: NewJob, now: float) -> dict[str, Any]:
    return {
        "id": new.job_id or uuid.uuid4().hex,
        "task": type(new.job).TASK,
        "pool": type(new.job).POOL,
        "payload": msgspec.json.encode(new.job).decode(),
        "state": "queued",
        "session_id": new.session_id,
        "lane": new.lane,
        "route": new.route,
        "idempotency_key": new.idempotency_key,
        "token": 0,
        "attempts": 0,
        "attempts_max": new.attempts_max,
        "stop_requested": False,
        "not_before": now + new.delay_s if new.delay_s else 0.0,
        "created_at": now,
        "deadline_at": now + new.deadline_s,
        # the caller sends the first hint right after its commit; that of a delayed job is the sweeper's to send
        "sent_at": 0.0 if new.delay_s else now,
    }
