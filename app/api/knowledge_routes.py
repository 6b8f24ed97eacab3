"""The table of the endpoints of knowledge: documents, uploads, embeddings. Part of app/api/routes.py."""

from __future__ import annotations

from app.api import documents, embeddings, tus, uploads
from app.api.knowledge_shapes import (
    AcceptedFiles,
    ChunkList,
    DocumentList,
    DocumentQuery,
    Embeddings,
    EmbeddingsRequest,
    PageQuery,
    SearchAnswer,
    SearchRequest,
    StoresChange,
    UploadDraft,
    UploadLimits,
    UploadList,
    UploadQuery,
    UploadView,
)
from app.api.shapes import EventsQuery
from app.sse import MEDIA_TYPE
from app.web import Route
from reef.knowledge.documents import Document

V1 = "/api/v1"
FILES = f"{V1}/uploads/files"
FILE = f"{FILES}/{{file_id}}"
UPLOAD = f"{V1}/uploads/{{upload_id}}"
DOCUMENT = f"{V1}/documents/{{document_id}}"
LAST_ID = {"Last-Event-ID": "Number of the last event seen; browsers send it by themselves when they reconnect."}
TUS = {"Tus-Resumable": "1.0.0"}

DOCUMENT_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path=f"{V1}/documents/upload",
        handler=uploads.send,
        upload="multipart/form-data",
        answers={202: AcceptedFiles},
        errors=(404, 409, 507),
        tag="documents",
    ),
    Route(
        method="GET",
        path=f"{V1}/documents",
        handler=documents.list_all,
        query=DocumentQuery,
        answers={200: DocumentList},
        tag="documents",
    ),
    Route(
        method="POST",
        path=f"{V1}/documents/query",
        handler=documents.search,
        body=SearchRequest,
        answers={200: SearchAnswer},
        errors=(404, 422, 429, 502, 504),
        tag="documents",
    ),
    Route(method="GET", path=DOCUMENT, handler=documents.get, answers={200: Document}, errors=(404,), tag="documents"),
    Route(
        method="DELETE", path=DOCUMENT, handler=documents.delete, answers={204: None}, errors=(404,), tag="documents"
    ),
    Route(
        method="GET",
        path=f"{DOCUMENT}/chunks",
        handler=documents.chunks,
        query=PageQuery,
        answers={200: ChunkList},
        errors=(404,),
        tag="documents",
    ),
    Route(
        method="GET",
        path=f"{DOCUMENT}/original",
        handler=documents.original,
        answers={200: "application/octet-stream"},
        errors=(404,),
        tag="documents",
    ),
    Route(
        method="PUT",
        path=f"{DOCUMENT}/stores",
        handler=documents.set_stores,
        body=StoresChange,
        answers={200: Document},
        errors=(404,),
        tag="documents",
    ),
    Route(
        method="POST",
        path=f"{DOCUMENT}/retry",
        handler=documents.retry,
        answers={202: Document},
        errors=(404, 409),
        tag="documents",
    ),
)

UPLOAD_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path=f"{V1}/uploads",
        handler=uploads.create,
        body=UploadDraft,
        answers={201: UploadView},
        errors=(404,),
        tag="uploads",
    ),
    Route(
        method="GET",
        path=f"{V1}/uploads",
        handler=uploads.list_all,
        query=UploadQuery,
        answers={200: UploadList},
        tag="uploads",
    ),
    Route(
        method="GET", path=f"{V1}/uploads/limits", handler=uploads.limits, answers={200: UploadLimits}, tag="uploads"
    ),
    Route(method="GET", path=UPLOAD, handler=uploads.get, answers={200: UploadView}, errors=(404,), tag="uploads"),
    *(
        Route(
            method="POST",
            path=f"{UPLOAD}/{handler.__name__}",
            handler=handler,
            answers={200: UploadView},
            errors=(404, 409),
            tag="uploads",
        )
        for handler in (uploads.close, uploads.pause, uploads.resume, uploads.cancel, uploads.retry)
    ),
    Route(
        method="GET",
        path=f"{UPLOAD}/events",
        handler=uploads.events,
        query=EventsQuery,
        answers={200: MEDIA_TYPE, 204: None},
        headers=LAST_ID,
        errors=(404,),
        tag="uploads",
    ),
    Route(method="OPTIONS", path=FILES, handler=tus.options, answers={204: None}, tag="uploads"),
    Route(
        method="POST",
        path=FILES,
        handler=tus.create,
        answers={201: None},
        headers=TUS
        | {
            "Upload-Length": "Size of the file in bytes.",
            "Upload-Metadata": "Pairs of a name and base64, with commas between them.",
        },
        errors=(404, 409, 412, 413, 507),
        tag="uploads",
    ),
    Route(
        method="GET", path=FILE, handler=tus.head, answers={200: None}, headers=TUS, errors=(404, 412), tag="uploads"
    ),
    Route(
        method="PATCH",
        path=FILE,
        handler=tus.patch,
        upload=tus.MEDIA_TYPE,
        answers={204: None},
        headers=TUS | {"Upload-Offset": "How many bytes were sent before."},
        errors=(404, 409, 412, 423, 507),
        tag="uploads",
    ),
    Route(
        method="DELETE",
        path=FILE,
        handler=tus.delete,
        answers={204: None},
        headers=TUS,
        errors=(404, 412),
        tag="uploads",
    ),
)

EMBEDDING_ROUTES: tuple[Route, ...] = (
    Route(
        method="POST",
        path="/v1/embeddings",
        handler=embeddings.embed,
        body=EmbeddingsRequest,
        answers={200: Embeddings},
        errors=(429, 502, 504),
        tag="openai",
    ),
)

KNOWLEDGE_ROUTES = DOCUMENT_ROUTES + UPLOAD_ROUTES + EMBEDDING_ROUTES
