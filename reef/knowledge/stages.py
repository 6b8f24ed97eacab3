"""The work of the stage jobs: files to text and passages, passages to vectors, vectors into the index.

Each file is settled in a transaction of its own that holds the job's row and checks its fencing token: a worker that
was taken for dead writes nothing, and a file that was finished before a crash is not done again. A batch whose first
attempt died is cut into jobs of one file each, so that a file that kills workers fails alone.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.contracts.jobs import EmbedJob, IndexJob, ParseJob
from reef.knowledge import changes, members
from reef.knowledge.changes import Fenced, check_claim
from reef.knowledge.flow import EMBED, PARSE, TO_PURGE, Stage, to_index, waiting_state
from reef.knowledge.model import Chunk, ParsedDocument
from reef.knowledge.progress import Change
from reef.ledger import Claim, JobRecord
from reef.ports import Cancelled, DeviceContext, EngineError, Hold, ParseFailed, RunWriter
from reef.records.tables import chunks, documents, uploads, windows

log = logging.getLogger(__name__)

EMBED_CALL_TEXTS_MAX = 16
"""Windows of one call of the engine: a person's question waits no longer than for one."""
EMBED_STORED_TOGETHER = 128
"""Windows whose vectors are stored in one transaction; a crash costs that many."""
INDEX_FILES_MAX = 200
"""Documents that go into the index together."""
INDEX_ROUND_S = 20.0
"""An index job ends after this and another one goes on: parse jobs have their turn on the same device."""
ROWS_AT_ONCE = 500

Write = Callable[[sa.Connection, float], list[Change]]


class _Given(Exception):
    """The work was taken back; the job is no longer ours or has been handed back."""


def parse_documents(context: DeviceContext, claim: Claim, job: ParseJob, _writer: RunWriter, hold: Hold) -> None:
    """Turn files into text and passages."""
    _batch(context, claim, PARSE, job.document_ids, hold, lambda batch: batch.each(_parse_one))


def embed_documents(context: DeviceContext, claim: Claim, job: EmbedJob, _writer: RunWriter, hold: Hold) -> None:
    """Make the vectors of documents' windows, across the documents of the job."""
    _batch(context, claim, EMBED, job.document_ids, hold, _embed_all)


def index_documents(context: DeviceContext, claim: Claim, _job: IndexJob, _writer: RunWriter, hold: Hold) -> None:
    """Bring the index up to date with the records."""
    batch = _Batch(context, claim, hold)
    try:
        _index_all(batch)
    except (Fenced, _Given):
        return
    if batch.finish("done"):
        batch.flow.advance()


def _batch(
    context: DeviceContext,
    claim: Claim,
    stage: Stage,
    document_ids: list[str],
    hold: Hold,
    work: Callable[[_Batch], None],
) -> None:
    batch = _Batch(context, claim, hold)
    try:
        if claim.job.attempts > 1 and len(document_ids) > 1:
            batch.split(stage)
            return
        work(batch)
    except (Fenced, _Given):
        return
    except EngineError as error:
        if claim.job.attempts < claim.job.attempts_max or len(document_ids) > 1:
            raise
        batch.fail_rest("embedding" if stage is EMBED else "internal", str(error))
    if batch.finish("done"):
        batch.flow.advance()


class _Batch:
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

    def each(self, work: Callable[[_Batch, Any], None]) -> None:
        """Do this with one document after the other. Raises _Given."""
        for known in self.rows():
            for row in self.rows(known["id"]):
                self.check()
                work(self, row)

    def check(self) -> None:
        """Raises _Given where the work must end."""
        if self.hold.cancel.is_set():
            self.give_back()

    def give_back(self) -> None:
        """End the work as its reason wants it. Raises _Given."""
        if self.hold.reason == "drain":
            self.context.ledger.hand_back(self.claim)
        elif self.hold.reason == "stop":
            self.finish("cancelled")
        raise _Given

    def settle(self, write: Write, *, alone: bool = False) -> None:
        """Write a document's outcome, if the claim still stands. Raises Fenced.

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


# --- parsing


def _parse_one(batch: _Batch, row: Any) -> None:
    path = batch.flow.originals.path(row["sha256"])
    if not path.is_file():
        batch.fail(row["id"], "lost", "The original file is missing from the data directory; upload it again.")
        return
    try:
        if members.is_archive(row["name"]):
            inside = members.unpack(batch.flow.originals, path, row["name"], batch.hold)
            batch.settle(lambda connection, now: _take_in(batch, connection, row, inside, now), alone=True)
            return
        parsed, found = _read(batch, path, row["name"])
    except ParseFailed as error:
        batch.fail(row["id"], error.code, str(error))
        return
    except Cancelled:
        batch.give_back()
        return
    batch.settle(lambda connection, now: _store_parsed(batch, connection, row["id"], parsed, found, now))


def _read(batch: _Batch, path: Path, name: str) -> tuple[ParsedDocument, list[Chunk]]:
    parsed = batch.context.parsing.parse(path, name, batch.hold.cancel)
    found = batch.context.parsing.cut(parsed)
    if not found:
        raise ParseFailed("no_text", "No text was found in this file.")
    return parsed, found


def _take_in(
    batch: _Batch, connection: sa.Connection, row: Any, inside: list[members.Member], now: float
) -> list[Change]:
    return members.take_in(connection, row, inside, now) if batch.still(connection, row["id"]) else []


def _store_parsed(
    batch: _Batch, connection: sa.Connection, document_id: str, parsed: ParsedDocument, found: list[Chunk], now: float
) -> list[Change]:
    if not batch.still(connection, document_id):
        return []
    connection.execute(chunks.delete().where(chunks.c.document_id == document_id))
    for some in _parts(found):
        connection.execute(chunks.insert(), [_chunk_row(document_id, chunk) for chunk in some])
    query = sa.select(chunks.c.number, chunks.c.id).where(chunks.c.document_id == document_id)
    ids = {row.number: row.id for row in connection.execute(query)}
    spans = [
        {"chunk_id": ids[chunk.number], "start": start, "end": end}
        for chunk in found
        for start, end in chunk.windows or ((0, len(chunk.text)),)
    ]
    for some_spans in _parts(spans):
        connection.execute(windows.insert(), some_spans)
    return changes.move(
        connection,
        documents.c.id == document_id,
        "embedding",
        now,
        title=parsed.title,
        language=parsed.language[:8],
        mime_type=parsed.mime_type[:120],
        pages=len(parsed.pages),
        characters=len(parsed.text),
        tokens=sum(chunk.tokens for chunk in found),
        chunk_count=len(found),
    )


def _chunk_row(document_id: str, chunk: Chunk) -> dict[str, Any]:
    return {
        "document_id": document_id,
        "number": chunk.number,
        "text": chunk.text,
        "headings": "\n".join(chunk.headings),
        "start": chunk.start,
        "end": chunk.end,
        "page_first": chunk.page_first,
        "page_last": chunk.page_last,
        "tokens": chunk.tokens,
    }


# --- embedding


class _Window(msgspec.Struct, frozen=True):
    id: int
    text: str


def _embed_all(batch: _Batch) -> None:
    left = {row["id"] for row in batch.rows()}
    engine = batch.context.embedding
    while waiting := _windows_without_vector(batch, left):
        made: list[tuple[int, bytes]] = []
        for start in range(0, len(waiting), EMBED_CALL_TEXTS_MAX):
            batch.check()
            some = waiting[start : start + EMBED_CALL_TEXTS_MAX]
            try:
                vectors = engine.embed_documents([window.text for window in some], batch.hold.cancel)
            except Cancelled:
                batch.give_back()
            made += [(window.id, row.astype("<f4").tobytes()) for window, row in zip(some, vectors, strict=True)]
        _settle_vectors(batch, made)
        paused = left - {row["id"] for row in batch.rows()}
        left -= paused
    batch.settle(lambda connection, now: _finish_embedded(connection, batch, now))


def _windows_without_vector(batch: _Batch, document_ids: Iterable[str]) -> list[_Window]:
    query = (
        sa.select(windows.c.id, windows.c.start, windows.c.end, chunks.c.text)
        .join_from(windows, chunks, windows.c.chunk_id == chunks.c.id)
        .join(documents, chunks.c.document_id == documents.c.id)
        .where(documents.c.id.in_(list(document_ids)), batch.mine, windows.c.vector.is_(None))
        .order_by(documents.c.created_at, documents.c.id, windows.c.id)
        .limit(EMBED_STORED_TOGETHER)
    )
    with batch.context.database.read() as connection:
        return [_Window(row.id, row.text[row.start : row.end]) for row in connection.execute(query)]


_SET_VECTOR = (
    windows.update().where(windows.c.id == sa.bindparam("window_id")).values(vector=sa.bindparam("new_vector"))
)


def _settle_vectors(batch: _Batch, made: list[tuple[int, bytes]]) -> None:
    batch.settle(lambda connection, now: _store_vectors(connection, batch, made, now))


def _store_vectors(connection: sa.Connection, batch: _Batch, made: list[tuple[int, bytes]], now: float) -> list[Change]:
    connection.execute(_SET_VECTOR, [{"window_id": window_id, "new_vector": vector} for window_id, vector in made])
    return _finish_embedded(connection, batch, now)


def _finish_embedded(connection: sa.Connection, batch: _Batch, now: float) -> list[Change]:
    """Documents all of whose windows have their vector go on."""
    without = sa.exists().where(
        chunks.c.document_id == documents.c.id, windows.c.chunk_id == chunks.c.id, windows.c.vector.is_(None)
    )
    which = sa.and_(batch.mine, documents.c.state == EMBED.working, ~without)
    return changes.move(connection, which, "indexing", now, embedded_by=batch.context.engine.model)


# --- indexing


def _index_all(batch: _Batch) -> None:
    index, until = batch.context.ingestion.index, time.monotonic() + INDEX_ROUND_S
    _purge(batch)
    if batch.claim.job.attempts > 1:
        with batch.context.database.write() as connection:
            check_claim(connection, batch.claim)
            batch.release(connection)
    # what killed the attempts before this one is met alone
    most = INDEX_FILES_MAX if batch.claim.job.attempts == 1 else 1
    while time.monotonic() < until and (taken := _take(batch, most)):
        batch.check()
        before = _stores(batch, taken)
        index.put(taken, batch.hold.progressed)
        _settle_shown(batch, before)
        _purge(batch)


def _take(batch: _Batch, most: int) -> list[str]:
    ids: list[str] = []
    with batch.context.database.write() as connection:
        check_claim(connection, batch.claim)
        query = sa.select(documents.c.id).where(to_index(batch.claim.job.id)).order_by(documents.c.state_at).limit(most)
        ids += connection.execute(query).scalars()
        connection.execute(documents.update().where(documents.c.id.in_(ids)).values(job_id=batch.claim.job.id))
    return ids


def _stores(batch: _Batch, document_ids: Sequence[str]) -> dict[str, set[str]]:
    with batch.context.database.read() as connection:
        return {document_id: changes.stores_of(connection, document_id) for document_id in document_ids}


def _settle_shown(batch: _Batch, put: dict[str, set[str]]) -> None:
    batch.settle(lambda connection, now: _show(connection, batch, put, now), alone=True)


def _show(connection: sa.Connection, batch: _Batch, put: dict[str, set[str]], now: float) -> list[Change]:
    told: list[Change] = []
    for document_id, stores in put.items():
        if not batch.still(connection, document_id):
            continue
        # put again where it was given other stores meanwhile
        if changes.stores_of(connection, document_id) == stores:
            told += changes.indexed(connection, document_id, now)
        else:
            told += changes.move(connection, documents.c.id == document_id, "indexing", now)
    return told


def _purge(batch: _Batch) -> None:
    """Take out of the index what is not to be found any more, then what was made from it out of the records."""
    database = batch.context.database
    while True:
        with database.read() as connection:
            query = sa.select(documents.c.id, documents.c.state).where(TO_PURGE).limit(INDEX_FILES_MAX)
            rows = connection.execute(query).mappings().all()
        if not rows:
            return
        ids = [row["id"] for row in rows]
        batch.context.ingestion.index.drop(ids, batch.hold.progressed)
        with database.write() as connection:
            check_claim(connection, batch.claim)
            connection.execute(chunks.delete().where(chunks.c.document_id.in_(ids)))
            connection.execute(documents.update().where(documents.c.id.in_(ids)).values(chunk_count=0))
            connection.execute(documents.delete().where(documents.c.id.in_(ids), documents.c.state == "deleted"))
        batch.hold.progressed()


def _parts(rows: list[Any]) -> Iterator[list[Any]]:
    return (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
