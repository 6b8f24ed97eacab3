"""Values the ledger takes and gives. No SQL here."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from reef.contracts.jobs import Job

JobState = Literal["queued", "running", "done", "failed", "dead", "cancelled"]
ENDED: frozenset[str] = frozenset({"done", "failed", "dead", "cancelled"})


class LaneBusy(Exception):
    """Another job of the same lane is still active."""

    def __init__(self, job_id: str) -> None:
        super().__init__(f"job {job_id} of this lane has not ended")
        self.job_id = job_id


class PoolFull(Exception):
    """The pool's queue is at its limit."""

    def __init__(self, pool: str, waiting: int, wait_s: float | None) -> None:
        super().__init__(f"{waiting} jobs wait for pool {pool}, which is its limit")
        self.pool, self.waiting, self.wait_s = pool, waiting, wait_s


class UnknownJob(KeyError):
    """No job has this id."""


class NewJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job to be accepted. `lane`: at most one active job may carry it; None allows any number."""

    job: Job
    deadline_s: float
    attempts_max: int
    job_id: str = ""
    session_id: str | None = None
    lane: str | None = None
    idempotency_key: str | None = None
    delay_s: float = 0.0
    attachment: bytes = b""
    """What it works on, where that is too long for its row (reef/ledger/attachments.py)."""
    """It is not begun before that, unless `Ledger.release` lets it."""
    route: str | None = None
    """Which devices of the pool should serve it (reef.placement.model); None: any of them."""


class JobRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A job as it stands in the ledger. Times are Unix seconds."""

    id: str
    task: str
    pool: str
    payload: str
    state: JobState
    session_id: str | None
    token: int
    attempts: int
    attempts_max: int
    owner: str | None
    stop_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    deadline_at: float
    not_before: float
    result: str | None
    error: str | None
    route: str | None = None

    @property
    def ended(self) -> bool:
        """Whether nothing more will happen to this job by itself."""
        return self.state in ENDED


class Claim(msgspec.Struct, frozen=True):
    """The right to work on a job: valid while `token` is the newest and the lease is renewed."""

    job: JobRecord
    token: int
    owner: str


class PoolLoad(msgspec.Struct, frozen=True):
    """How busy a pool is. `job_s` is the mean run time of its last jobs, None before the first."""

    queued: int
    running: int
    job_s: float | None

    def wait_s(self, position: int, streams: int) -> float | None:
        """Estimated wait of the job at this queue position (1 is next) on that many streams."""
        if self.job_s is None or streams < 1:
            return None
        free = max(streams - self.running, 0)
        return round(self.job_s * max(position - free, 0) / streams, 1)


def as_json(value: Any) -> str:
    """A result as it is stored."""
    return msgspec.json.encode(value).decode()
