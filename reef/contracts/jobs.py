"""Jobs: what the ledger stores and what travels on the queues.

The Celery message is only a hint that a ledger row wants a worker (`JobHint`); the row's payload is the job.
Each payload names its task and its pool, so that the front door can send it without importing the task's body.
New fields need a default: a worker of the previous version must be able to read the next version's job.
"""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

import msgspec
from msgspec import Meta


class JobHint(msgspec.Struct, frozen=True, kw_only=True):
    """The only argument of every Celery task here."""

    job_id: str
    v: int = 1


class Job(msgspec.Struct, frozen=True, kw_only=True):
    """Base of the payloads."""

    TASK: ClassVar[str]
    POOL: ClassVar[str]

    v: int = 1


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that a reply may rest on."""

    chunk_id: int
    score: float


Grounding = Literal["", "wanted", "found", "nothing", "failed"]
"""Whether the persona's documents are asked before it answers: "" it has none; `wanted` they are being asked;
`nothing` none of them speaks of it; `failed` they could not be asked."""


class ChatJob(Job, frozen=True, kw_only=True):
    """Write the next reply of `persona_id` in a session, after the message `prompt_message_id`."""

    TASK: ClassVar[str] = "coralreef.chat.generate"
    POOL: ClassVar[str] = "chat"

    session_id: str
    persona_id: str
    prompt_message_id: str
    reply_message_id: str
    tokens_max: int
    temperature: float | None = None
    """None: the persona's own."""
    schema: dict[str, object] | None = None
    grounding: Grounding = ""
    sources: list[Source] = []
    """Best first; given by the GroundJob that ran before."""


class GroundJob(Job, frozen=True, kw_only=True):
    """Find what a persona's documents say about a question, give it to the chat job `run_id` and let that begin."""

    TASK: ClassVar[str] = "coralreef.embed.ground"
    POOL: ClassVar[str] = "embed"

    run_id: str
    question: str
    stores: list[str]
    k: int = 6


class CompletionJob(Job, frozen=True, kw_only=True):
    """Answer a bare list of messages, as OpenAI clients send them: nothing is stored in a session."""

    TASK: ClassVar[str] = "coralreef.chat.complete"
    POOL: ClassVar[str] = "chat"

    messages: list[dict[str, str]]
    tokens_max: int
    persona_id: str | None = None
    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: list[str] = []
    schema: dict[str, object] | None = None


class ParseJob(Job, frozen=True, kw_only=True):
    """Turn these files into text and passages."""

    TASK: ClassVar[str] = "coralreef.index.parse"
    POOL: ClassVar[str] = "index"

    document_ids: list[str]


class EmbedJob(Job, frozen=True, kw_only=True):
    """Make the vectors of these documents' windows."""

    TASK: ClassVar[str] = "coralreef.embed.documents"
    POOL: ClassVar[str] = "embed"

    document_ids: list[str]


class IndexJob(Job, frozen=True, kw_only=True):
    """Bring the index up to date with the records. One at a time: the index has one writer."""

    TASK: ClassVar[str] = "coralreef.index.write"
    POOL: ClassVar[str] = "index"
    LANE: ClassVar[str] = "knowledge-index"


class QueryFilters(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Which documents a search looks at; what is empty does not restrict."""

    document_ids: Annotated[list[Annotated[str, Meta(max_length=64)]], Meta(max_length=500)] = []
    name_prefix: Annotated[str, Meta(max_length=500)] = ""
    """Beginning of a document's name: a folder of an upload."""
    language: Annotated[str, Meta(max_length=8)] = ""
    mime_type: Annotated[str, Meta(max_length=120)] = ""


class QueryJob(Job, frozen=True, kw_only=True):
    """Find the passages of these stores that answer a question. They stand in the job's result."""

    TASK: ClassVar[str] = "coralreef.embed.query"
    POOL: ClassVar[str] = "embed"

    question: str
    stores: list[str]
    k: int = 10
    score_min: float | None = None
    filters: QueryFilters = QueryFilters()


class EmbedTextsJob(Job, frozen=True, kw_only=True):
    """Embed texts for a client that waits. The vectors stand in the job's result."""

    TASK: ClassVar[str] = "coralreef.embed.texts"
    POOL: ClassVar[str] = "embed"

    texts: list[str]
    dimensions: int | None = None
    """Keep so many of each vector's numbers, normalised again. None: all."""


class InputTensor(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One tensor of an input: its numbers row by row, little-endian; base64 in JSON."""

    data: bytes
    shape: Annotated[list[Annotated[int, Meta(ge=0, le=1 << 31)]], Meta(max_length=8)] = []
    """Empty: the model's own."""
    dtype: Annotated[str, Meta(max_length=16)] = ""
    """Empty: the model's own. float32 for a quantised model is quantised on the way."""
    name: Annotated[str, Meta(max_length=1000)] = ""
    """Empty: the tensors come in the model's order."""


class InferenceInputs(msgspec.Struct, frozen=True, kw_only=True):
    """The attachment of an InferenceJob, as msgpack: inputs of some tensors each, or pictures as they were uploaded."""

    tensors: list[list[InputTensor]] = []
    pictures: list[bytes] = []


class InferenceJob(Job, frozen=True, kw_only=True):
    """Run a model over its attached inputs. What comes out, tensors or labels, stands in the job's result."""

    TASK: ClassVar[str] = "coralreef.media.infer"
    POOL: ClassVar[str] = "media"

    model: str
    floats: bool = False
    """Give quantised outputs as the values they stand for."""
    top_k: int = 5
    """Labels of a picture."""


class FetchModelJob(Job, frozen=True, kw_only=True):
    """Bring a model to this machine, check it, and place it on these nodes (none: only fetch it)."""

    TASK: ClassVar[str] = "coralreef.maintenance.fetch_model"
    POOL: ClassVar[str] = "maintenance"

    model: str
    source: str = ""
    """An http(s) address; empty: where the catalogue says."""
    sha256: str = ""
    pool: str = ""
    nodes: list[str] = []


JOBS: tuple[type[Job], ...] = (
    ChatJob,
    CompletionJob,
    ParseJob,
    EmbedJob,
    IndexJob,
    GroundJob,
    QueryJob,
    EmbedTextsJob,
    InferenceJob,
    FetchModelJob,
)
"""Every kind of job there is; queues.yaml and the compose file are held against this list."""
