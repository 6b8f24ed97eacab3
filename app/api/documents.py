"""Documents: listing, reading, searching, moving between stores, deleting."""

from __future__ import annotations

import time

import msgspec
from flask import Response, send_file

from app.api.knowledge_shapes import (
    ChunkList,
    DocumentList,
    DocumentQuery,
    PageQuery,
    SearchAnswer,
    SearchRequest,
    StoresChange,
)
from app.questions import answer
from app.services import Services
from app.web import Answer, Call
from reef.contracts.jobs import QueryJob
from reef.knowledge import documents
from reef.knowledge.documents import Document, Wanted
from reef.knowledge.model import SHARED_STORE, Passage
from reef.knowledge.uploads import check_stores


class QueryResult(msgspec.Struct, frozen=True):
    """What the job found (reef/knowledge/asking.py writes it)."""

    passages: list[Passage]
    model: str
    embed_s: float
    search_s: float


def list_all(call: Call) -> DocumentList:
    """List documents, newest first or as `sort` says."""
    query: DocumentQuery = call.query
    wanted = Wanted(
        text=query.query,
        state=query.state,
        kind=query.kind,
        store=query.store or query.persona_id,
        upload_id=query.upload_id,
        sort=query.sort,
    )
    found, total = documents.list_documents(call.services.uploads.flow, wanted, query.limit, query.offset)
    return DocumentList(documents=found, total=total)


def get(call: Call, document_id: str) -> Document:
    """Read a document: where it is on its way, and what is known of it."""
    return documents.get_document(call.services.uploads.flow, document_id)


def chunks(call: Call, document_id: str) -> ChunkList:
    """Read the passages of a document in their order."""
    query: PageQuery = call.query
    found, total = documents.get_chunks(call.services.uploads.flow, document_id, query.limit, query.offset)
    return ChunkList(chunks=found, total=total)


def original(call: Call, document_id: str) -> Response:
    """Download the file as it was uploaded. It is never shown in place: it may be a page with scripts."""
    document, path = documents.original_of(call.services.uploads.flow, document_id)
    response = send_file(
        path,
        mimetype="application/octet-stream",
        as_attachment=True,
        download_name=document.name.rpartition("/")[2],
        etag=document.sha256 or False,
        conditional=True,
        last_modified=document.created_at,
    )
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    response.headers["Cache-Control"] = "private, no-cache"
    return response


def delete(call: Call, document_id: str) -> Answer:
    """Delete a document: it is not found from now on."""
    documents.delete_document(call.services.uploads.flow, document_id)
    return Answer(status=204)


def set_stores(call: Call, document_id: str) -> Document:
    """Put a document into exactly these stores."""
    change: StoresChange = call.body
    return documents.set_stores(call.services.uploads.flow, document_id, change.stores)


def retry(call: Call, document_id: str) -> Answer:
    """Try a failed document again, where its reason may pass (`retryable`)."""
    return Answer(status=202, body=documents.retry_document(call.services.uploads.flow, document_id))


def search(call: Call) -> SearchAnswer:
    """Search documents: the passages nearest to a question."""
    began = time.monotonic()
    return search_answer(answer(call.services, search_job(call.services, call.body), QueryResult), began)


def search_job(services: Services, body: SearchRequest) -> QueryJob:
    """The job that answers this question. Raises UnknownStore."""
    stores = list(body.stores or [])
    if not stores:
        stores = [SHARED_STORE, *([body.persona_id] if body.persona_id else [])]
    elif body.persona_id:
        stores.append(body.persona_id)
    with services.database.read() as connection:
        checked = check_stores(connection, stores)
    return QueryJob(question=body.query, stores=checked, k=body.k, score_min=body.score_min, filters=body.filters)


def search_answer(found: QueryResult, began: float) -> SearchAnswer:
    """What was found, as clients see it; `began` is the time.monotonic of the question."""
    return SearchAnswer(
        results=found.passages,
        model=found.model,
        embed_s=found.embed_s,
        search_s=found.search_s,
        total_s=round(time.monotonic() - began, 5),
    )
