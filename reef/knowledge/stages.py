"""The work of the stage jobs: files to text and passages, passages to vectors, vectors into the index.

Each file is settled in a transaction of its own that holds the job's row and checks its fencing token: a worker that
was taken for dead writes nothing, and a file that was finished before a crash is not done again. A batch whose first
attempt died is cut into jobs of one file each, so that a file that kills workers fails alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.contracts.jobs import EmbedJob, IndexJob, ParseJob
from reef.knowledge import changes, members
from reef.knowledge.archives import ArchiveLimits, is_archive
from reef.knowledge.batch import Batch, Given
from reef.knowledge.changes import Fenced, check_claim
from reef.knowledge.flow import EMBED, PARSE, STORES_TO_PURGE, TO_PURGE, Stage, to_index
from reef.knowledge.model import Chunk, ParsedDocument
from reef.knowledge.progress import Change
from reef.ledger import Claim
from reef.ports import Cancelled, DeviceContext, EngineError, Hold, ParseFailed, RunWriter
from reef.records.tables import chunks, documents, former_personas, windows

EMBED_CALL_TEXTS_MAX = 16
"""Windows of one call of the engine: a person's question waits no longer than for one."""
EMBED_STORED_TOGETHER = 128
"""Windows whose vectors are stored in one transaction; a crash costs that many."""
INDEX_FILES_MAX = 200
"""Documents that go into the index together."""
INDEX_ROUND_S = 20.0
"""An index job ends after this and another one goes on: parse jobs have their turn on the same device."""
ROWS_AT_ONCE = 500
ARCHIVE_LIMITS = ArchiveLimits()
"""The reserve of the originals is kept free besides."""


def parse_documents(context: DeviceContext, claim: Claim, job: ParseJob, _writer: RunWriter, hold: Hold) -> None:
    """Turn files into text and passages."""
    _batch(context, claim, PARSE, job.document_ids, hold, lambda batch: batch.each(_parse_one))


def embed_documents(context: DeviceContext, claim: Claim, job: EmbedJob, _writer: RunWriter, hold: Hold) -> None:
    """Make the vectors of documents' windows, across the documents of the job."""
    _batch(context, claim, EMBED, job.document_ids, hold, _embed_all)


def index_documents(context: DeviceContext, claim: Claim, _job: IndexJob, _writer: RunWriter, hold: Hold) -> None:
    """Bring the index up to date with the records."""
    batch = Batch(context, claim, hold)
    try:
        _index_all(batch)
    except (Fenced, Given):
        return
    if batch.finish("done"):
        batch.flow.advance()


def _batch(
    context: DeviceContext,
    claim: Claim,
    stage: Stage,
    document_ids: list[str],
    hold: Hold,
    work: Callable[[Batch], None],
) -> None:
    batch = Batch(context, claim, hold)
    try:
        if claim.job.attempts > 1 and len(document_ids) > 1:
            batch.split(stage)
            return
        work(batch)
    except (Fenced, Given):
        return
    except EngineError as error:
        if claim.job.attempts < claim.job.attempts_max or len(document_ids) > 1:
            raise
        batch.fail_rest("embedding" if stage is EMBED else "internal", str(error))
    if batch.finish("done"):
        batch.flow.advance()


# --- parsing


def _parse_one(batch: Batch, row: Any) -> None:
    path = batch.flow.originals.path(row["sha256"])
    if not path.is_file():
        batch.fail(row["id"], "lost", "The original file is missing from the data directory; upload it again.")
        return
    try:
        if is_archive(row["name"]):
            _take_apart(batch, row, path)
            return
        parsed, found = _read(batch, path, row["name"])
    except ParseFailed as error:
        batch.fail(row["id"], error.code, str(error))
        return
    except Cancelled:
        batch.give_back()
        return
    batch.settle(lambda connection, now: _store_parsed(batch, connection, row["id"], parsed, found, now))


def _read(batch: Batch, path: Path, name: str) -> tuple[ParsedDocument, list[Chunk]]:
    parsed = batch.context.parsing.parse(path, name, batch.hold.cancel)
    found = batch.context.parsing.cut(parsed)
    if not found:
        raise ParseFailed("no_text", "No text was found in this file.")
    return parsed, found


def _take_apart(batch: Batch, row: Any, path: Path) -> None:
    inside = members.unpack(batch.flow.originals, path, row["name"], batch.hold, ARCHIVE_LIMITS)
    for some in members.parts(inside):
        batch.check()
        _settle_taken_in(batch, row, some)
    batch.settle(
        lambda connection, now: (
            members.give_way(connection, row["id"], len(inside)) if batch.still(connection, row["id"]) else []
        ),
        alone=True,
    )


def _settle_taken_in(batch: Batch, row: Any, some: list[members.Inside]) -> None:
    batch.settle(lambda connection, now: _take_in(batch, connection, row, some, now), alone=True)


def _take_in(batch: Batch, connection: sa.Connection, row: Any, some: list[members.Inside], now: float) -> list[Change]:
    return members.take_in(connection, row, some, now) if batch.still(connection, row["id"]) else []


def _store_parsed(
    batch: Batch, connection: sa.Connection, document_id: str, parsed: ParsedDocument, found: list[Chunk], now: float
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
        "page_starts": msgspec.json.encode(chunk.page_starts).decode() if chunk.page_starts else "",
        "tokens": chunk.tokens,
    }


# --- embedding


class _Window(msgspec.Struct, frozen=True):
    id: int
    text: str


def _embed_all(batch: Batch) -> None:
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
        rows = batch.rows()
        # no file may have changed its state for minutes: that its vectors grow in number is told all the same
        batch.flow.progress.touch({row["upload_id"] for row in rows if row["upload_id"] is not None})
        left &= {row["id"] for row in rows}
    batch.settle(lambda connection, now: _finish_embedded(connection, batch, now))


def _windows_without_vector(batch: Batch, document_ids: Iterable[str]) -> list[_Window]:
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


def _settle_vectors(batch: Batch, made: list[tuple[int, bytes]]) -> None:
    batch.settle(lambda connection, now: _store_vectors(connection, batch, made, now))


def _store_vectors(connection: sa.Connection, batch: Batch, made: list[tuple[int, bytes]], now: float) -> list[Change]:
    connection.execute(_SET_VECTOR, [{"window_id": window_id, "new_vector": vector} for window_id, vector in made])
    return _finish_embedded(connection, batch, now)


def _finish_embedded(connection: sa.Connection, batch: Batch, now: float) -> list[Change]:
    """Documents all of whose windows have their vector go on."""
    without = sa.exists().where(
        chunks.c.document_id == documents.c.id, windows.c.chunk_id == chunks.c.id, windows.c.vector.is_(None)
    )
    which = sa.and_(batch.mine, documents.c.state == EMBED.working, ~without)
    return changes.move(connection, which, "indexing", now, embedded_by=batch.context.engine.model)


# --- indexing


def _index_all(batch: Batch) -> None:
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


def _take(batch: Batch, most: int) -> list[str]:
    ids: list[str] = []
    with batch.context.database.write() as connection:
        check_claim(connection, batch.claim)
        query = sa.select(documents.c.id).where(to_index(batch.claim.job.id)).order_by(documents.c.state_at).limit(most)
        ids += connection.execute(query).scalars()
        connection.execute(documents.update().where(documents.c.id.in_(ids)).values(job_id=batch.claim.job.id))
    return ids


def _stores(batch: Batch, document_ids: Sequence[str]) -> dict[str, set[str]]:
    with batch.context.database.read() as connection:
        return {document_id: changes.stores_of(connection, document_id) for document_id in document_ids}


def _settle_shown(batch: Batch, put: dict[str, set[str]]) -> None:
    batch.settle(lambda connection, now: _show(connection, batch, put, now), alone=True)


def _show(connection: sa.Connection, batch: Batch, put: dict[str, set[str]], now: float) -> list[Change]:
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


def _purge(batch: Batch) -> None:
    """Take out of the index what is not to be found any more, then what was made from it out of the records."""
    _purge_stores(batch)
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


def _purge_stores(batch: Batch) -> None:
    """Take out of the index the stores of personas that were deleted."""
    with batch.context.database.read() as connection:
        gone = list(connection.execute(STORES_TO_PURGE).scalars())
    for store in gone:
        batch.context.ingestion.index.drop_store(store)
        with batch.context.database.write() as connection:
            check_claim(connection, batch.claim)
            which = former_personas.c.id == store
            connection.execute(former_personas.update().where(which).values(in_index=False))
        batch.hold.progressed()


def _parts(rows: list[Any]) -> Iterator[list[Any]]:
    return (rows[start : start + ROWS_AT_ONCE] for start in range(0, len(rows), ROWS_AT_ONCE))
