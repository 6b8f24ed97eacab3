"""What the endpoints of knowledge take and give, where it is not a struct of the domain."""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from reef.contracts.frames import NOT_BLANK, Identifier
from reef.contracts.jobs import QueryFilters
from reef.knowledge.documents import LISTED_MAX, Document, DocumentChunk, Sort
from reef.knowledge.formats import Kind
from reef.knowledge.model import Passage
from reef.knowledge.uploads import STORES_MAX, UPLOADS_LISTED_MAX, Upload

QUESTION_CHARS_MAX = 8_000
TEXTS_MAX = 512
TEXT_CHARS_MAX = 100_000
Stores = Annotated[list[Identifier], Meta(min_length=1, max_length=STORES_MAX)]
Offset = Annotated[int, Meta(ge=0, le=10_000_000)]


class UploadDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A new upload. Its files go to `stores`: `shared`, ids of personas. `persona_id` is short for one of them."""

    name: Annotated[str, Meta(max_length=200)] = ""
    stores: Stores | None = None
    persona_id: Identifier | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far an upload is. `files`: number of files in each state; rates are of the last half minute.

    `replaced`: documents of earlier uploads that its files took the place of, since they had the same names.
    `windows`, `windows_embedded`: of the files that get their vectors now, how many there are and how many have one.
    """

    files: dict[str, int]
    files_total: int
    bytes_total: int
    bytes_received: int
    bytes_done: int
    chunks: int
    replaced: int
    files_per_s: float
    bytes_per_s: float
    eta_s: float | None
    windows: int
    windows_embedded: int


class UploadView(Upload, frozen=True, kw_only=True):
    """An upload and how far it is."""

    progress: Progress


class UploadList(msgspec.Struct, frozen=True):
    """Uploads, newest first."""

    uploads: list[UploadView]


class UploadQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which uploads to list."""

    state: Literal["", "open", "running", "paused", "cancelled", "done"] = ""
    limit: Annotated[int, Meta(ge=1, le=UPLOADS_LISTED_MAX)] = 50


class AcceptedFile(msgspec.Struct, frozen=True, kw_only=True):
    """A file that was accepted, under the name it got: `notes (2).txt` where the upload had another `notes.txt`."""

    document_id: str
    name: str
    size_bytes: int


class AcceptedFiles(msgspec.Struct, frozen=True, kw_only=True):
    """Files that were accepted; `upload_id` can be watched."""

    upload_id: str
    stores: list[str]
    documents: list[AcceptedFile]


class UploadLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What may be uploaded. `reserve_bytes` of the disk stay free.

    `file_bytes_max` is for archives; `document_bytes_max` for every other file, and for each file of an archive.
    """

    file_bytes_max: int
    document_bytes_max: int
    files_max: int
    upload_bytes_max: int
    reserve_bytes: int
    received_file_kept_s: float
    """A file whose bytes stop coming is given up after this."""


class DocumentQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which documents to list. `query` is looked for in names and titles; `kind` is told by a name's extension.

    State `working` is every state on the way, `current` every one but `replaced`. Store `-`: those that are for nobody,
    since the persona that read them was deleted. `sort` with `-` is from the last to the first; without one the newest
    come first, and of equals the one with the lower id.
    """

    query: Annotated[str, Meta(max_length=200)] = ""
    state: Literal[
        "",
        "receiving",
        "queued",
        "parsing",
        "embedding",
        "indexing",
        "indexed",
        "failed",
        "cancelled",
        "replaced",
        "working",
        "current",
    ] = ""
    kind: Kind | Literal[""] = ""
    store: Annotated[str, Meta(max_length=64)] = ""
    persona_id: Annotated[str, Meta(max_length=64)] = ""
    upload_id: Annotated[str, Meta(max_length=64)] = ""
    sort: Sort = ""
    limit: Annotated[int, Meta(ge=1, le=LISTED_MAX)] = 100
    offset: Offset = 0


class DocumentList(msgspec.Struct, frozen=True, kw_only=True):
    """Documents in the wanted order, and how many there are in all."""

    documents: list[Document]
    total: int


class PageQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which part of a list."""

    limit: Annotated[int, Meta(ge=1, le=LISTED_MAX)] = 100
    offset: Offset = 0


class ChunkList(msgspec.Struct, frozen=True, kw_only=True):
    """Passages in their order, and how many there are in all."""

    chunks: list[DocumentChunk]
    total: int


class StoresChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The stores a document is to be in."""

    stores: Stores


class SearchRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A question. With `persona_id` it searches what that persona may read: its own store and the shared one.

    `stores` names them instead; without either only the shared store is searched.
    """

    query: Annotated[str, Meta(max_length=QUESTION_CHARS_MAX, pattern=NOT_BLANK)]
    persona_id: Identifier | None = None
    stores: Stores | None = None
    k: Annotated[int, Meta(ge=1, le=100)] = 10
    score_min: Annotated[float, Meta(ge=-1.0, le=1.0)] | None = None
    filters: QueryFilters = QueryFilters()


class SearchAnswer(msgspec.Struct, frozen=True, kw_only=True):
    """The passages that were found, best first. Times in seconds; `total_s` includes the wait for the device."""

    results: list[Passage]
    model: str
    embed_s: float
    search_s: float
    total_s: float


class EmbeddingsRequest(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's request, as much of it as is served: texts, not tokens."""

    input: str | list[str | int | list[int]]
    model: str
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Meta(ge=1, le=8192)] | None = None
    user: str | None = None


class Embedding(msgspec.Struct, frozen=True, kw_only=True):
    """A vector: numbers, or base64 of little-endian float32."""

    object: str = "embedding"
    index: int
    embedding: list[float] | str


class EmbeddingsUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Tokens that were read."""

    prompt_tokens: int
    total_tokens: int


class Embeddings(msgspec.Struct, frozen=True, kw_only=True):
    """OpenAI's answer."""

    object: str = "list"
    data: list[Embedding]
    model: str
    usage: EmbeddingsUsage
