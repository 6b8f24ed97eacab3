"""What happens next to the files of all uploads: which stage jobs to make, and what became of those that ended.

`advance` is called whenever a stage job ended, when files arrive, and by the sweeper. It may be called by several
processes at once: it is one transaction that only one of them is in. The work itself is in `stages.py`.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from itertools import chain, zip_longest
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.contracts.jobs import EmbedJob, IndexJob, Job, ParseJob
from reef.knowledge import changes
from reef.knowledge.model import MOVING_STATES
from reef.knowledge.originals import Originals
from reef.knowledge.progress import Change, Progress
from reef.ledger import JobRecord, LaneBusy, Ledger, NewJob
from reef.placement.serving import Capacity, is_served
from reef.records.tables import ACTIVE_STATES, documents, former_personas, jobs, uploads
from reef.topology import Pool, Topology

log = logging.getLogger(__name__)

PARSE_JOBS_PER_STREAM = 2
"""Parse jobs in flight: one that runs and one that waits for it to end."""
EMBED_JOBS_PER_DEVICE = 2
"""Bulk embed jobs in flight. The other streams of the pool are for people who wait for an answer."""
PARSE_FILES_MAX, PARSE_BYTES_MAX = 16, 8_000_000
EMBED_FILES_MAX, EMBED_TOKENS_MAX = 32, 20_000
"""What one job carries; a single file may be larger."""
UPLOADS_AT_ONCE_MAX = 256
"""Uploads that get their share at the same time; a further one waits for one of them."""
BACKLOG_FILES_MAX = 256
"""Files of one upload that may wait between parsing and the index; then its other files wait unparsed."""
INDEX_ATTEMPTS_MAX = 10
"""An index server that is away for some minutes costs no file."""
RECEIVING_KEPT_S = 24 * 3600.0
"""A file whose bytes stop coming is given up after this."""
OPEN_KEPT_S = 24 * 3600.0
"""An upload that gets no more files is closed after this."""

Send = Callable[[JobRecord], None]


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A step that files are taken through in batches."""

    waiting: str
    """State of the files that are to go through it."""
    working: str
    job: type[ParseJob] | type[EmbedJob]
    files_max: int
    weight: str
    """Column whose sum a batch limits."""
    weight_max: int


PARSE = Stage(
    waiting="queued",
    working="parsing",
    job=ParseJob,
    files_max=PARSE_FILES_MAX,
    weight="size_bytes",
    weight_max=PARSE_BYTES_MAX,
)
EMBED = Stage(
    waiting="embedding",
    working="embedding",
    job=EmbedJob,
    files_max=EMBED_FILES_MAX,
    weight="tokens",
    weight_max=EMBED_TOKENS_MAX,
)
STAGES = (EMBED, PARSE)
"""Later stages first: what is begun is finished before more is begun."""


class Flow:
    """Moves files along. One per process; safe to share between threads."""

    def __init__(
        self, ledger: Ledger, topology: Topology, originals: Originals, progress: Progress, send: Send
    ) -> None:
        """`send` puts a hint on the job's queue and raises nothing: the sweeper sends what was not taken."""
        self.ledger, self.originals, self.progress = ledger, originals, progress
        self.database = ledger.database
        self._topology, self._send = topology, send
        self._capacity = Capacity(topology, ledger.database)

    def advance(self) -> int:
        """Settle what ended and make the jobs that there is room for; gives how many were made."""
        now = time.time()
        with self.database.write() as connection:
            changes.alone(connection)
            told = self._reap(connection, now) + changes.admit_again(connection, now)
            made = [job for stage in STAGES for job in self._fill(connection, stage, told, now)]
            made += self._index(connection)
            touched = close_finished(connection, now)
        self.progress.tell(told)
        self.progress.touch(touched)
        for job in made:
            self._send(job)
        return len(made)

    def look(self) -> int:
        """What the sweeper does: advance where anything can move, and give up what will not come."""
        with self.database.read() as connection:
            idle = connection.execute(_ANYTHING_TO_DO).first() is None
        return 0 if idle else self.advance()

    def give_up_late(self) -> None:
        """Fail files whose bytes stopped coming, and close uploads that nobody closed."""
        now = time.time()
        late = sa.and_(documents.c.state == "receiving", documents.c.state_at < now - RECEIVING_KEPT_S)
        with self.database.write() as connection:
            told = changes.move(
                connection, late, "failed", now, reason="The rest of the file never came.", reason_code="lost"
            )
            connection.execute(
                uploads.update()
                .where(uploads.c.state == "open", uploads.c.updated_at < now - OPEN_KEPT_S)
                .values(state="running")
            )
            touched = close_finished(connection, now)
        for change in told:
            self.originals.discard(change.document_id)
        self.progress.tell(told)
        self.progress.touch(touched)

    # --- within the transaction

    def _reap(self, connection: sa.Connection, now: float) -> list[Change]:
        """Documents whose job ended without them: back to where they waited, or failed with the reason."""
        query = (
            sa.select(documents.c.id, documents.c.state, jobs.c.state.label("job_state"), jobs.c.error)
            .join_from(documents, jobs, documents.c.job_id == jobs.c.id, isouter=True)
            .where(
                documents.c.job_id.is_not(None),
                documents.c.state.in_(MOVING_STATES),
                sa.or_(jobs.c.id.is_(None), jobs.c.state.not_in(ACTIVE_STATES)),
            )
        )
        told: list[Change] = []
        for row in connection.execute(query).mappings().all():
            if row["job_state"] == "cancelled":
                which = documents.c.id == row["id"]
                told += changes.move(connection, which, waiting_state(row["state"]), now)
                continue
            why = row["error"] or "it ended without a reason"
            reason = f"Its job was lost while the file was {row['state']}: {why}. Retry it, or look into the logs."
            told += changes.failed(connection, row["id"], "lost", reason, now)
        return told

    def _fill(self, connection: sa.Connection, stage: Stage, told: list[Change], now: float) -> Iterator[JobRecord]:
        if not is_served(self._topology, stage.job.POOL):
            return
        pool = self._topology.pool(stage.job.POOL)
        room = _jobs_max(stage, pool, self._capacity.devices(pool)) - _active(connection, stage.job)
        if room <= 0:
            return
        for batch in _batches(_ready(connection, stage, room * stage.files_max), stage, room):
            record, moved = self.make_job(connection, stage, batch, now)
            told += moved
            yield record

    def make_job(
        self, connection: sa.Connection, stage: Stage, document_ids: list[str], now: float
    ) -> tuple[JobRecord, list[Change]]:
        """A job that takes these documents through a stage; it is to be sent after the commit."""
        pool = self._topology.pool(stage.job.POOL)
        job_id = uuid.uuid4().hex
        new = NewJob(
            job=stage.job(document_ids=document_ids),
            job_id=job_id,
            deadline_s=pool.limits.deadline_s,
            attempts_max=pool.limits.attempts_max,
        )
        record = self._submit(connection, new, pool)
        which = documents.c.id.in_(document_ids)
        return record, changes.move(connection, which, stage.working, now, job_id=job_id)

    def _index(self, connection: sa.Connection) -> list[JobRecord]:
        served = is_served(self._topology, IndexJob.POOL)
        if not served or connection.execute(_ANYTHING_TO_INDEX).first() is None:
            return []
        pool = self._topology.pool(IndexJob.POOL)
        new = NewJob(
            job=IndexJob(),
            lane=IndexJob.LANE,
            deadline_s=pool.limits.deadline_s,
            attempts_max=INDEX_ATTEMPTS_MAX,
        )
        try:
            return [self._submit(connection, new, pool)]
        except LaneBusy:
            return []

    def _submit(self, connection: sa.Connection, new: NewJob, pool: Pool) -> JobRecord:
        streams = self._capacity.streams(pool)
        return self.ledger.submit(connection, new, waiting_max=pool.limits.waiting_max, streams=streams)

    def send(self, records: Iterable[JobRecord]) -> None:
        """Put the hints of jobs on their queues, after the commit that made them."""
        for record in records:
            self._send(record)


def waiting_state(state: str) -> str:
    """Where a document waits for the stage that it is in."""
    return PARSE.waiting if state == PARSE.working else state


_UPLOAD_GOES_ON = sa.or_(
    documents.c.upload_id.is_(None),
    sa.exists().where(uploads.c.id == documents.c.upload_id, uploads.c.state.in_(("open", "running", "done"))),
)
_GOES = sa.and_(documents.c.job_id.is_(None), documents.c.duplicate_of.is_(None), _UPLOAD_GOES_ON)
TO_PURGE = sa.or_(
    documents.c.state == "deleted",
    sa.and_(documents.c.state.in_(("replaced", "cancelled")), documents.c.chunk_count > 0),
)
"""Documents whose entries have to leave the index."""
STORES_TO_PURGE = sa.select(former_personas.c.id).where(former_personas.c.in_index)
"""Stores of deleted personas that have to leave the index."""
_ANYTHING_TO_INDEX = sa.union_all(
    sa.select(documents.c.id).where(sa.or_(sa.and_(documents.c.state == "indexing", _GOES), TO_PURGE)), STORES_TO_PURGE
).limit(1)
_FINISHED = sa.and_(
    uploads.c.state == "running",
    ~sa.exists().where(documents.c.upload_id == uploads.c.id, documents.c.state.in_(("receiving", *MOVING_STATES))),
)
"""Uploads whose files have all come to their end. A worker may die between its last file and saying so."""
_ANYTHING_TO_DO = sa.union_all(
    sa.select(documents.c.id).where(sa.or_(documents.c.state.in_(MOVING_STATES), TO_PURGE)),
    STORES_TO_PURGE,
    sa.select(uploads.c.id).where(_FINISHED),
).limit(1)


def to_index(mine: str) -> sa.ColumnElement[bool]:
    """Documents that wait for the index, or are in the hands of this job."""
    return sa.and_(documents.c.state == "indexing", sa.or_(_GOES, documents.c.job_id == mine))


def close_finished(connection: sa.Connection, now: float) -> list[str]:
    """Uploads whose files have all come to their end are done; gives their ids."""
    done = connection.execute(
        uploads.update().where(_FINISHED).values(state="done", finished_at=now, updated_at=now).returning(uploads.c.id)
    )
    return list(done.scalars())


def _jobs_max(stage: Stage, pool: Pool, devices: int) -> int:
    if stage is PARSE:
        return PARSE_JOBS_PER_STREAM * pool.streams * devices
    return max(1, min(EMBED_JOBS_PER_DEVICE, pool.streams - 1)) * devices


def _active(connection: sa.Connection, kind: type[Job]) -> int:
    query = (
        sa.select(sa.func.count())
        .select_from(jobs)
        .where(jobs.c.pool == kind.POOL, jobs.c.task == kind.TASK, jobs.c.state.in_(ACTIVE_STATES))
    )
    return connection.execute(query).scalar_one()


def _ready(connection: sa.Connection, stage: Stage, most: int) -> list[Any]:
    """Files that can go through this stage now, one of each upload in turn: a small upload does not wait for a big."""
    ready = sa.and_(documents.c.state == stage.waiting, _GOES)
    groups = connection.execute(
        sa.select(documents.c.upload_id)
        .where(ready)
        .group_by(documents.c.upload_id)
        .order_by(sa.func.min(documents.c.state_at))
        .limit(UPLOADS_AT_ONCE_MAX)
    ).scalars()
    held = _held_up(connection) if stage is PARSE else set()
    columns = (documents.c.id, documents.c[stage.weight].label("weight"))
    taken = []
    for upload_id in groups.all():
        if upload_id in held:
            continue
        query = (
            sa.select(*columns)
            .where(ready, documents.c.upload_id.is_not_distinct_from(upload_id))
            .order_by(documents.c.created_at, documents.c.id)
            .limit(most)
        )
        taken.append(connection.execute(query).mappings().all())
    in_turn = chain.from_iterable(zip_longest(*taken))
    return [row for row in in_turn if row is not None][:most]


def _held_up(connection: sa.Connection) -> set[str | None]:
    query = (
        sa.select(documents.c.upload_id)
        .where(documents.c.state.in_(("embedding", "indexing")))
        .group_by(documents.c.upload_id)
        .having(sa.func.count() >= BACKLOG_FILES_MAX)
    )
    return set(connection.execute(query).scalars())


def _batches(rows: list[Any], stage: Stage, most: int) -> Iterator[list[str]]:
    batch: list[str] = []
    weight = made = 0
    for row in rows:
        full = len(batch) >= stage.files_max or weight + row["weight"] > stage.weight_max
        if batch and full:
            yield batch
            made += 1
            if made == most:
                return
            batch, weight = [], 0
        batch.append(row["id"])
        weight += row["weight"]
    if batch:
        yield batch
