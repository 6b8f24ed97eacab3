"""What the REST endpoints take and give, where it is not a struct of the domain."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from reef.contracts.events import Metrics, Usage
from reef.contracts.frames import NOT_BLANK, Identifier, MessageText
from reef.contracts.system import JobView, Sample
from reef.conversation.store import Message, SessionSummary
from reef.personas.store import Persona

SESSIONS_MAX = 500
JOBS_MAX = 500


class PersonaView(Persona, frozen=True, kw_only=True):
    """A persona with what may not work as it is set up; a model may still come, so nothing of it is refused."""

    warnings: list[str]


class PersonaList(msgspec.Struct, frozen=True):
    """All personas, oldest first."""

    personas: list[Persona]


class MemoryDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something to remember."""

    text: Annotated[str, Meta(max_length=2_000, pattern=NOT_BLANK)]


class PersonaEnd(msgspec.Struct, frozen=True):
    """What becomes of the documents that a deleted persona alone reads."""

    documents: Literal["keep", "delete"] = "keep"


class SessionQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which sessions to list. `query` is looked for in titles and messages; `before` is the `next` of a page."""

    query: Annotated[str, Meta(max_length=200)] = ""
    persona_id: Annotated[str, Meta(max_length=64)] = ""
    limit: Annotated[int, Meta(ge=1, le=SESSIONS_MAX)] = 100
    before: Annotated[str, Meta(max_length=100, pattern=r"^([0-9]{1,12}(\.[0-9]{1,9})?:[A-Za-z0-9._:-]{1,64})?$")] = ""


class SessionDraft(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Start a conversation; the persona's greeting becomes its first message."""

    persona_id: Identifier


class SessionChange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A new title."""

    title: Annotated[str, Meta(max_length=80, pattern=NOT_BLANK)]


class MessageView(Message, frozen=True, kw_only=True):
    """A message with its text as safe HTML."""

    html: str


class ActiveRun(msgspec.Struct, frozen=True, kw_only=True):
    """A reply that is being written or waits for its device."""

    run_id: str
    persona_id: str
    state: str
    reply_message_id: str


class History(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation."""

    session: SessionSummary
    messages: list[MessageView]
    active_runs: list[ActiveRun]


class ChatRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Say something to a persona. `wait` false: do not wait for the reply. `stream` is accepted and has no effect."""

    persona_id: Identifier
    message: MessageText
    session_id: Identifier | None = None
    tokens_max: Annotated[int, Meta(ge=1, le=8192)] | None = None
    wait: bool = True
    stream: bool = True


class EditRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The text that replaces a user's message."""

    message: MessageText


class AcceptedTurn(msgspec.Struct, frozen=True, kw_only=True):
    """The run that will answer. `position` 1 is next; `wait_s` is an estimate."""

    run_id: str
    session_id: str
    prompt_message_id: str
    reply_message_id: str
    position: int
    wait_s: float | None


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """A finished reply. `message` is null where it was stopped before its first word."""

    run_id: str
    session_id: str
    message: MessageView | None
    usage: Usage
    metrics: Metrics


class RunView(msgspec.Struct, frozen=True, kw_only=True):
    """A run as the ledger has it. Times are Unix seconds."""

    run_id: str
    session_id: str | None
    persona_id: str | None
    state: str
    attempts: int
    attempts_max: int
    stop_requested: bool
    created_at: float
    started_at: float | None
    finished_at: float | None
    error: str | None
    position: int | None = None
    reply_message_id: str | None = None


class RunState(msgspec.Struct, frozen=True):
    """A run's state after a stop: `running` means that it stops at its next token."""

    run_id: str
    state: str


class EventsQuery(msgspec.Struct, frozen=True):
    """Where to begin: events after this number (0: from the first)."""

    after: Annotated[int, Meta(ge=0, le=2**53)] = 0


class DeadJob(msgspec.Struct, frozen=True, kw_only=True):
    """A job whose attempts are used up."""

    id: str
    task: str
    pool: str
    session_id: str | None
    attempts: int
    created_at: float
    finished_at: float | None
    error: str | None


class DeadJobs(msgspec.Struct, frozen=True):
    """The dead list, newest first."""

    jobs: list[DeadJob]


class Health(msgspec.Struct, frozen=True):
    """The process answers."""

    status: str


class Readiness(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Whether a message would be answered now; `checks` says what is missing, to those who may know."""

    status: str
    checks: dict[str, str] | None = None


class JobsQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Which jobs to list: the longest running or waiting first, of the dead the newest."""

    state: Literal["running", "queued", "dead"] = "running"
    pool: Annotated[str, Meta(max_length=32)] = ""
    limit: Annotated[int, Meta(ge=1, le=JOBS_MAX)] = 100


class JobList(msgspec.Struct, frozen=True):
    """Jobs in this state, and how many there are in all, of every pool."""

    jobs: list[JobView]
    total: int


class HistoryQuery(msgspec.Struct, frozen=True):
    """Only samples taken after this time, in Unix seconds."""

    after: Annotated[float, Meta(ge=0, le=1e12)] = 0.0


class SampleList(msgspec.Struct, frozen=True, kw_only=True):
    """The last hour, oldest first, one sample each `step_s`."""

    step_s: float
    samples: list[Sample]


class PlaceRequest(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where a device should serve. An empty `model` means the pool's own; an empty `pool`: let it rest."""

    pool: Annotated[str, Meta(max_length=32)]
    model: Annotated[str, Meta(max_length=200)] = ""


Document = dict[str, Any]
"""An OpenAPI document."""
