"""Reading documents and their passages, and what a person changes about one: its stores, another try, its end."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import msgspec
import sqlalchemy as sa

from reef.knowledge import changes
from reef.knowledge.flow import Flow
from reef.knowledge.formats import Kind, extensions_of
from reef.knowledge.model import RETRYABLE_CODES, UNSETTLED_STATES, PageStart
from reef.knowledge.passages import page_starts_of
from reef.knowledge.progress import Change, windows_of
from reef.knowledge.uploads import UploadClosed, check_stores, retry
from reef.records.database import Database
from reef.records.tables import chunks, document_stores, documents

LISTED_MAX = 500
Sort = Literal[
    "", "name", "-name", "state", "-state", "size", "-size", "created", "-created", "indexed", "-indexed"
]  # fmt: skip
"""The order of a list; with `-` from the last to the first. Without one it is newest first."""
NOBODY = "-"
"""In place of a store: documents in none, since their persona was deleted. No persona's id."""


class UnknownDocument(KeyError):
    """No document has this id."""


class Document(msgspec.Struct, frozen=True, kw_only=True):
    """A document. `name` is its path in its upload; times are Unix seconds.

    `sha256` is None where its original is not here: not yet, or no more, since something else took its place.
    `successor` is told of a single replaced document: what is found under its name in its stores now.
    `retryable`: it failed for a reason that may pass, so that trying it again may help.
    `embedded_share`, 0 to 1: how many of its vectors are made, while it is `embedding`.
    """

    id: str
    upload_id: str | None
    name: str
    size_bytes: int
    received_bytes: int
    sha256: str | None
    mime_type: str
    state: str
    state_at: float
    reason: str | None
    reason_code: str | None
    duplicate_of: str | None
    title: str
    language: str
    pages: int
    characters: int
    tokens: int
    chunk_count: int
    embedded_by: str
    created_at: float
    indexed_at: float | None
    stores: list[str]
    successor: str | None = None
    retryable: bool = False
    embedded_share: float = 0.0


class DocumentChunk(msgspec.Struct, frozen=True, kw_only=True):
    """A passage. `start` and `end` are its place in the document's text, in code points; `page_starts`, the pages that
    begin inside it, counts from the passage's own start.
    """

    id: int
    number: int
    text: str
    start: int
    end: int
    tokens: int
    page_first: int | None
    page_last: int | None
    page_starts: tuple[PageStart, ...]
    headings: list[str]


class Wanted(msgspec.Struct, frozen=True, kw_only=True):
    """Which documents to list; what is empty does not restrict.

    `state` may also be `working` (not settled yet) or `current` (whatever no newer document took the place of),
    `store` NOBODY.
    """

    text: str = ""
    state: str = ""
    kind: Kind | Literal[""] = ""
    store: str = ""
    upload_id: str = ""
    sort: Sort = ""


_SORTED_BY: dict[str, sa.ColumnElement[Any]] = {
    "name": sa.func.lower(documents.c.name),
    "state": documents.c.state,
    "size": documents.c.size_bytes,
    "created": documents.c.created_at,
    "indexed": documents.c.indexed_at,
}
_MADE = ("stores", "successor", "retryable", "embedded_share")
_COLUMNS = [documents.c[name] for name in Document.__struct_fields__ if name not in _MADE]


def list_documents(flow: Flow, wanted: Wanted, limit: int, offset: int) -> tuple[list[Document], int]:
    """Documents in the wanted order, and how many there are in all."""
    condition = _condition(wanted)
    query = sa.select(*_COLUMNS).where(condition).order_by(*_order(wanted.sort)).limit(limit).offset(offset)
    with flow.database.read() as connection:
        rows = connection.execute(query).mappings().all()
        total = connection.execute(sa.select(sa.func.count()).select_from(documents).where(condition)).scalar_one()
        found = _documents(connection, rows)
    return found, total


def _order(sort: Sort) -> tuple[sa.ColumnElement[Any], ...]:
    """Ties go by id, so that the parts of a list fit together; what was never indexed comes last either way."""
    wanted = sort or "-created"
    by = _SORTED_BY[wanted.removeprefix("-")]
    return (by.desc() if wanted.startswith("-") else by.asc()).nulls_last(), documents.c.id


def count_states(database: Database) -> dict[str, int]:
    """Number of documents in each state."""
    query = sa.select(documents.c.state, sa.func.count()).group_by(documents.c.state)
    with database.read() as connection:
        return dict(connection.execute(query).all())


def get_document(flow: Flow, document_id: str) -> Document:
    """The document of that id. Raises UnknownDocument."""
    with flow.database.read() as connection:
        document = _find(connection, document_id)
        successor = _successor(connection, document) if document.state == "replaced" else None
    return msgspec.structs.replace(document, successor=successor)


def _successor(connection: sa.Connection, document: Document) -> str | None:
    query = (
        sa.select(documents.c.id)
        .join(document_stores, document_stores.c.document_id == documents.c.id)
        .where(documents.c.name == document.name, documents.c.state == "indexed")
        .where(document_stores.c.store.in_(document.stores))
        .order_by(documents.c.created_at.desc(), documents.c.id.desc())
        .limit(1)
    )
    return connection.execute(query).scalar()


def get_chunks(flow: Flow, document_id: str, limit: int, offset: int) -> tuple[list[DocumentChunk], int]:
    """Passages of a document in order (of a duplicate: those of its original), and how many there are in all.

    Raises UnknownDocument.
    """
    with flow.database.read() as connection:
        document = _find(connection, document_id)
        which = chunks.c.document_id == (document.duplicate_of or document.id)
        columns = [chunks.c[name] for name in DocumentChunk.__struct_fields__]
        query = sa.select(*columns).where(which).order_by(chunks.c.number).limit(limit).offset(offset)
        rows = connection.execute(query).mappings().all()
        total = connection.execute(sa.select(sa.func.count()).select_from(chunks).where(which)).scalar_one()
    return [_chunk(row) for row in rows], total


def delete_document(flow: Flow, document_id: str) -> None:
    """Delete a document: it is not found from now on, and its row goes when the index has let go of it.

    Raises UnknownDocument.
    """
    now = time.time()
    with flow.database.write() as connection:
        changes.alone(connection)
        document = _find(connection, document_id)
        told = changes.leave(connection, [document_id], "deleted", now)
        if document.chunk_count == 0 and document.state in ("receiving", "queued", "failed", "cancelled", "replaced"):
            connection.execute(documents.delete().where(documents.c.id == document_id))
    flow.originals.discard(document_id)
    flow.progress.tell(told)
    flow.advance()


def set_stores(flow: Flow, document_id: str, stores: Sequence[str]) -> Document:
    """Put a document into exactly these stores. Raises UnknownDocument and UnknownStore.

    An indexed one is not found for the moment it takes to bring the index up to date. A duplicate becomes a document
    of its own, since it now is in other stores than its original.
    """
    now = time.time()
    with flow.database.write() as connection:
        changes.alone(connection)
        document = _find(connection, document_id)
        wanted = check_stores(connection, stores)
        told = []
        if wanted != document.stores:
            told = _set_stores(connection, document, wanted, now)
        document = _find(connection, document_id)
    flow.progress.tell(told)
    flow.advance()
    return document


def _set_stores(connection: sa.Connection, document: Document, stores: list[str], now: float) -> list[Change]:
    which = documents.c.id == document.id
    told = []
    if document.duplicate_of is None and document.state in changes.ALIVE:
        told += changes.promote(connection, document.id, now)
    connection.execute(document_stores.delete().where(document_stores.c.document_id == document.id))
    changes.put_into(connection, document.id, stores)
    if document.duplicate_of is not None:
        told += changes.admit(connection, document.id, now)
    elif document.state == "indexed":
        told += changes.move(connection, which, "indexing", now)
    return told


def retry_document(flow: Flow, document_id: str) -> Document:
    """Try a failed document again. Raises UnknownDocument and UploadClosed where there is nothing to try."""
    with flow.database.write() as connection:
        changes.alone(connection)
        document = _find(connection, document_id)
        if document.state in UNSETTLED_STATES:
            return document
        if document.state == "failed" and document.sha256 is not None and not document.retryable:
            raise UploadClosed(
                f"Trying the same file again does not help. {document.reason} Upload it again once mended."
            )
        told = retry(connection, document_id)
        if not told:
            what = "its bytes never came" if document.state == "failed" else f"this document is {document.state}"
            raise UploadClosed(f"Only a failed document can be tried again; {what}.")
        document = _find(connection, document_id)
    flow.progress.tell(told)
    flow.advance()
    return document


def _chunk(row: Any) -> DocumentChunk:
    headings = row["headings"].split("\n") if row["headings"] else []
    return DocumentChunk(**{**row, "headings": headings, "page_starts": page_starts_of(row["page_starts"])})


def _condition(wanted: Wanted) -> sa.ColumnElement[bool]:
    conditions = [documents.c.state != "deleted"]
    if wanted.text:
        pattern = wanted.text.lower().replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")
        named = sa.func.lower(documents.c.name).like(f"%{pattern}%", escape="\\")
        titled = sa.func.lower(documents.c.title).like(f"%{pattern}%", escape="\\")
        conditions.append(sa.or_(named, titled))
    if wanted.state:
        conditions.append(_in_state(wanted.state))
    if wanted.kind:
        name = sa.func.lower(documents.c.name)
        conditions.append(sa.or_(*(name.endswith(f".{extension}") for extension in extensions_of(wanted.kind))))
    if wanted.upload_id:
        conditions.append(documents.c.upload_id == wanted.upload_id)
    if wanted.store:
        conditions.append(_in_store(wanted.store))
    return sa.and_(*conditions)


def _in_store(store: str) -> sa.ColumnElement[bool]:
    mine = document_stores.c.document_id == documents.c.id
    if store == NOBODY:
        return ~sa.exists().where(mine)
    return sa.exists().where(mine, document_stores.c.store == store)


def _in_state(state: str) -> sa.ColumnElement[bool]:
    if state == "working":
        return documents.c.state.in_(UNSETTLED_STATES)
    if state == "current":
        return documents.c.state != "replaced"
    return documents.c.state == state


def _find(connection: sa.Connection, document_id: str) -> Document:
    query = sa.select(*_COLUMNS).where(documents.c.id == document_id, documents.c.state != "deleted")
    row = connection.execute(query).mappings().first()
    if row is None:
        raise UnknownDocument(document_id)
    return _documents(connection, [row])[0]


def _documents(connection: sa.Connection, rows: Sequence[Any]) -> list[Document]:
    stores = _stores(connection, [row["id"] for row in rows])
    embedding = [row["id"] for row in rows if row["state"] == "embedding"]
    made = windows_of(connection, documents.c.id.in_(embedding)) if embedding else {}
    shares = {document_id: round(done / total, 3) for document_id, (total, done) in made.items()}
    return [_document(row, stores.get(row["id"], []), shares.get(row["id"], 0.0)) for row in rows]


def _document(row: Any, stores: list[str], embedded_share: float) -> Document:
    has_bytes = row["sha256"] is not None
    retryable = row["state"] == "failed" and has_bytes and row["reason_code"] in RETRYABLE_CODES
    return Document(**row, stores=stores, retryable=retryable, embedded_share=embedded_share)


def _stores(connection: sa.Connection, ids: Sequence[str]) -> dict[str, list[str]]:
    query = sa.select(document_stores).where(document_stores.c.document_id.in_(ids)).order_by(document_stores.c.store)
    found: dict[str, list[str]] = {}
    for row in connection.execute(query).mappings():
        found.setdefault(row["document_id"], []).append(row["store"])
    return found


def original_of(flow: Flow, document_id: str) -> tuple[Document, Any]:
    """A document and the path of its original file. Raises UnknownDocument, also where its bytes are not here."""
    document = get_document(flow, document_id)
    path = flow.originals.path(document.sha256) if document.sha256 else None
    if path is None or not path.is_file():
        raise UnknownDocument(document_id)
    return document, path
