"""The job ledger: the truth about every job. A Celery message is only a hint that a row here wants a worker.

Why: Celery on Redis alone loses and doubles jobs under faults (docs/decisions/0002). Each job is one row that moves

    queued -> running -> done | failed | cancelled        running -> queued   (worker lost, retry, handed back)
    queued -> cancelled | failed (deadline)               running -> dead     (attempts used up)

by conditional UPDATEs; a claim hands out a fencing token, and only the newest token can end the job.
"""

from reef.ledger.ledger import Ledger
from reef.ledger.model import (
    Claim,
    JobRecord,
    JobState,
    LaneBusy,
    NewJob,
    PoolFull,
    PoolLoad,
    UnknownJob,
)

__all__ = [
    "Claim",
    "JobRecord",
    "JobState",
    "LaneBusy",
    "Ledger",
    "NewJob",
    "PoolFull",
    "PoolLoad",
    "UnknownJob",
]
