"""The documents of a stage job while a worker has them: which are its own, and how each is settled.

Each is settled in a transaction of its own that holds the job's row and checks its fencing token: a worker that was
taken for dead writes nothing. What is done with a document is in stages.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any

import sqlalchemy as sa

from reef.knowledge import changes
from reef.knowledge.changes import check_claim
from reef.knowledge.flow import Stage, waiting_state
from reef.knowledge.progress import Change
from reef.ledger import Claim, JobRecord
from reef.ports import DeviceContext, Hold
from reef.records.tables import documents, uploads

log = logging.getLogger(__name__)

Write = Callable[[sa.Connection, float], list[Change]]


class Given(Exception):
    """The work was taken back; the job is no longer ours or has been handed back."""


class Batch:
    """The documents of a job that are still its own."""

    def __init__(self, context: DeviceContext, claim: Claim, hold: Hold) -> None:
        self.context, self.claim, self.hold = context, claim, hold
        self.flow = context.ingestion.flow
        self.mine = documents.c.job_id == claim.job.id
        self.stage = claim.job.task.rpartition(".")[2]

    def rows(self, document_id: str = "") -> list[Any]:
        """The documents of this job (or that one of them), without those whose upload was paused meanwhile."""
        query = (
            sa.select(documents, uploads.c.state.label("upload_state"))
            .join_from(documents, uploads, documents.c.upload_id == uploads.c.id, isouter=True)
            .where(self.mine, documents.c.id == document_id if document_id else sa.true())
            .order_by(documents.c.created_at, documents.c.id)
        )
        with self.context.database.read() as connection:
            return [row for row in connection.execute(query).mappings().all() if row["upload_state"] != "paused"]

    def each(self, work: Callable[[Batch, Any], None]) -> None:
        """Do this with one document after the other. Raises Given."""
        for known in self.rows():
            for row in self.rows(known["id"]):
                self.check()
                work(self, row)

    def check(self) -> None:
        """Raises Given where the work must end."""
        if self.hold.cancel.is_set():
            self.give_back()

    def give_back(self) -> None:
        """End the work as its reason wants it. Raises Given."""
        if self.hold.reason == "drain":
            self.context.ledger.hand_back(self.claim)
        elif self.hold.reason == "stop":
            self.finish("cancelled")
        raise Given

    def settle(self, write: Write, *, alone: bool = False) -> bool:
        """Write a document's outcome, if the claim still stands. Raises Fenced. False where it wrote nothing.

        `alone`: it decides about others of the same content or name, too.
        """
        now = time.time()
        with self.context.database.write() as connection:
            if alone:
                changes.alone(connection)
            check_claim(connection, self.claim)
            told = write(connection, now)
        self.flow.progress.tell(told)
        for state in {change.state for change in told}:
            files = sum(change.state == state for change in told)
            self.context.ingestion.count_files(self.stage, state, files)
        self.hold.progressed()
        return bool(told)

    def still(self, connection: sa.Connection, document_id: str) -> bool:
        """Whether a document is ours yet: it may have been cancelled or deleted."""
        query = sa.select(documents.c.id).where(documents.c.id == document_id, self.mine).with_for_update()
        return connection.execute(query).scalar() is not None

    def fail(self, document_id: str, code: str, reason: str) -> None:
        """A document cannot be done."""

        def write(connection: sa.Connection, now: float) -> list[Change]:
            if not self.still(connection, document_id):
                return []
            return changes.failed(connection, document_id, code, reason, now)

        self.settle(write)

    def fail_rest(self, code: str, reason: str) -> None:
        """Nothing of what is left can be done."""
        for row in self.rows():
            self.fail(row["id"], code, reason)

    def split(self, stage: Stage) -> None:
        """The first attempt at this batch died: from now on each of its files is tried alone."""
        made: list[JobRecord] = []
        told: list[Change] = []

        def write(connection: sa.Connection) -> None:
            now = time.time()
            for document_id in connection.execute(sa.select(documents.c.id).where(self.mine)).scalars().all():
                record, moved = self.flow.make_job(connection, stage, [document_id], now)
                made.append(record)
                told.extend(moved)

        if self.context.ledger.finish(self.claim, "done", within=write):
            log.warning("job %s died before; its %d files are tried one by one", self.claim.job.id, len(made))
            self.flow.progress.tell(told)
            self.flow.send(made)

    def finish(self, state: str) -> bool:
        """End the job. What was not done (its upload was paused) waits again. False where the claim was lost."""
        told: list[Change] = []
        ended = self.context.ledger.finish(self.claim, state, within=lambda c: told.extend(self.release(c)))
        if ended:
            self.flow.progress.tell(told)
        return ended

    def release(self, connection: sa.Connection) -> list[Change]:
        """Documents in the hands of this job wait again."""
        told: list[Change] = []
        query = sa.select(documents.c.id, documents.c.state).where(self.mine)
        for row in connection.execute(query).mappings().all():
            which = documents.c.id == row["id"]
            told += changes.move(connection, which, waiting_state(row["state"]), time.time())
        return told
