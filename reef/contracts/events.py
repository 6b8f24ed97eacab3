"""Events of a run, as they stand in its Redis stream and as every client receives them.

On the wire an event is one flat JSON object: {"type": ..., "seq": ..., "run_id": ..., "session_id": ..., fields}.
`seq` only grows within a run and has gaps where a run was restarted: it is a cursor, not a count.
"""

from __future__ import annotations

from typing import Any, Literal

import msgspec


class Event(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, tag_field="type", tag=str.lower):
    """What every event carries. `seq` 0 means: not part of the run's log (a reading, such as a queue position)."""

    run_id: str = ""
    session_id: str = ""
    seq: int = 0


class Queued(Event, frozen=True, kw_only=True, omit_defaults=False):
    """The run waits, for the first time or again. `position` 1 is next; `wait_s` is an estimate, None while nothing was
    measured yet; `note` says so where no device of the pool answers."""

    position: int
    wait_s: float | None = None
    persona_id: str = ""
    note: str = ""
    """Why nothing happens, for a person, where no device serves the run's pool."""


class Started(Event, frozen=True, kw_only=True, omit_defaults=False):
    """A device took the run. `device` is its name, or `cpu (in place of usb:0)` where the CPU does its work."""

    persona_id: str
    device: str
    model: str
    attempt: int = 1


class Typing(Event, frozen=True, kw_only=True, omit_defaults=False):
    """The persona is reading the prompt; its first token follows."""

    persona_id: str


class Token(Event, frozen=True, kw_only=True, omit_defaults=False):
    """Text that follows what came before. One event may carry several tokens."""

    content: str


class Restarted(Event, frozen=True, kw_only=True, omit_defaults=False):
    """Forget the text received so far for this run: it is told again from its beginning.

    It may be told twice, when a worker dies and when the next one begins.
    """

    reason: str


class Resumed(Event, frozen=True, kw_only=True, omit_defaults=False):
    """Answer to a client's resume: events after `after_seq` follow."""

    after_seq: int
    state: str


class Usage(msgspec.Struct, frozen=True):
    """Tokens, in the specification's words."""

    prompt: int
    completion: int


class Metrics(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the run went, in seconds and tokens per second."""

    queue_s: float | None = None
    first_token_s: float | None = None
    tokens_per_s: float | None = None
    cached_tokens: int | None = None


class Done(Event, frozen=True, kw_only=True, omit_defaults=False):
    """The reply is complete and stored as message `message_id`."""

    usage: Usage
    message_id: str
    finish_reason: Literal["stop", "length"] = "stop"
    metrics: Metrics = Metrics()


class Stopped(Event, frozen=True, kw_only=True, omit_defaults=False):
    """Somebody stopped the run. What was said so far is stored as `message_id` (None: nothing was said)."""

    usage: Usage
    message_id: str | None = None


REFUSED = frozenset({"refused", "too_long", "instructions_too_long"})
"""Codes of a run that fails again when it is tried again as it is."""


class Error(Event, frozen=True, kw_only=True, omit_defaults=False):
    """The run (or, without run_id, the client's last frame) failed. `message` is for a person.

    `code` is `too_long` where the message does not fit the model, `instructions_too_long` where the persona's
    instructions leave no room for one, `refused` where it cannot be answered for another reason of its own.
    """

    code: str
    message: str
    retry_after_s: float | None = None


class Emotion(Event, frozen=True, kw_only=True, omit_defaults=False):
    """The persona's emotional state changed."""

    persona_id: str
    state: str


class ToolCall(Event, frozen=True, kw_only=True, omit_defaults=False, tag="tool_call"):
    """A tool is being used."""

    tool: str
    status: str


class Citation(Event, frozen=True, kw_only=True):
    """A passage the reply rests on. `start` and `end` are the place that is meant in the document's text, in code
    points: the sentences of the passage where they can be told, with their page, else the whole passage.

    `basis` says how sure that is: `cited` where the reply marks it as [number]; `matched` where the reply marks nothing
    (small models forget) and this passage says in its words what the reply says; `source` where nothing is marked or
    matched and these are all the passages it was given, at their places nearest to the question.
    """

    number: int
    document_id: str
    name: str
    chunk_id: int
    start: int
    end: int
    score: float
    page_first: int | None = None
    page_last: int | None = None
    headings: tuple[str, ...] = ()
    basis: Literal["cited", "matched", "source"]


class UploadProgress(Event, frozen=True, kw_only=True, tag="upload"):
    """How far an upload is. `files`: number of files in each state. Rates are of the last half minute.

    `replaced`: documents of earlier uploads that its files took the place of.
    `windows`, `windows_embedded`: of the files that get their vectors now, how many there are and how many have one.
    With `snapshot` it is read from the records for a client that begins to watch: what came before is in it.
    """

    upload_id: str
    state: str
    files: dict[str, int]
    files_total: int
    bytes_total: int
    bytes_received: int
    bytes_done: int
    chunks: int
    replaced: int = 0
    files_per_s: float = 0.0
    bytes_per_s: float = 0.0
    eta_s: float | None = None
    windows: int = 0
    windows_embedded: int = 0
    snapshot: bool = False


class DocumentChanged(Event, frozen=True, kw_only=True, tag="document"):
    """A file of an upload is in another state. `reason` is for a person, `reason_code` for programs."""

    document_id: str
    upload_id: str | None
    name: str
    state: str
    at: float
    """When it came into this state, in Unix seconds. Of one document, events never go back in time."""
    reason: str | None = None
    reason_code: str | None = None
    duplicate_of: str | None = None


UploadEvent = UploadProgress | DocumentChanged


class SystemView(Event, frozen=True, kw_only=True, tag="system"):
    """How the reef stands, to who sent `watch_system`, about once a second. With `snapshot` it is everything; else what
    changed since the last one: by name, the fields that differ, or null for what is gone.

    `devices` are by node and have the fields of GET /api/v1/system/status, as have `pools` (without their devices) and
    `reef` (all the rest); `jobs` are by id and those of GET /api/v1/system/jobs: running, waiting and dead. `trouble`
    says why nothing newer is known.
    """

    at: float
    snapshot: bool = False
    reef: dict[str, Any] = {}
    pools: dict[str, dict[str, Any] | None] = {}
    devices: dict[str, dict[str, Any] | None] = {}
    jobs: dict[str, dict[str, Any] | None] = {}
    trouble: str = ""


DeviceChange = Literal["failed", "gone", "restarted", "back", "fallback"]


class DeviceNotice(Event, frozen=True, kw_only=True, tag="device_changed"):
    """A device failed, its worker is gone or was started again, it serves again, or the CPU does its work meanwhile.

    `message` is for a person.
    """

    node: str
    change: DeviceChange
    message: str
    at: float


class ModelNotice(Event, frozen=True, kw_only=True, tag="model"):
    """A model is being fetched or loaded. `state` is that of GET /api/v1/system/models; `node` is empty while it is
    fetched to the disk, else the worker that loads it, answers with it, or could not."""

    name: str
    state: Literal["READY", "CACHED", "LOADING", "PARTIAL", "FAILED", "REMOVED"]
    node: str = ""
    progress: float = 0.0
    """Share of the fetching, 0..1."""
    note: str = ""
    at: float = 0.0


SystemEvent = SystemView | DeviceNotice | ModelNotice


class Notice(Event, frozen=True, kw_only=True, omit_defaults=False):
    """Something about this reply that a person should know, as a sentence."""

    message: str


RunEvent = (
    Queued
    | Started
    | Typing
    | Token
    | Restarted
    | Resumed
    | Done
    | Stopped
    | Error
    | Emotion
    | ToolCall
    | Citation
    | Notice
)

FINAL = (Done, Stopped, Error)
"""An event of one of these types is the last of its run."""

_decoder: msgspec.json.Decoder[RunEvent] = msgspec.json.Decoder(RunEvent)
_upload_decoder: msgspec.json.Decoder[UploadEvent] = msgspec.json.Decoder(UploadEvent)
_announced_decoder: msgspec.json.Decoder[DeviceNotice | ModelNotice] = msgspec.json.Decoder(DeviceNotice | ModelNotice)
_encoder = msgspec.json.Encoder()


def encode(event: Event) -> bytes:
    """The event as one JSON object."""
    return _encoder.encode(event)


def decode(raw: bytes | str) -> RunEvent:
    """Read an event; fields this version does not know are ignored. Raises msgspec.ValidationError."""
    return _decoder.decode(raw)


def decode_upload(raw: bytes | str) -> UploadEvent:
    """Read an event of an upload. Raises msgspec.ValidationError."""
    return _upload_decoder.decode(raw)


def decode_announced(raw: bytes | str) -> DeviceNotice | ModelNotice:
    """Read an event of keys.SYSTEM_CHANNEL. Raises msgspec.ValidationError."""
    return _announced_decoder.decode(raw)
