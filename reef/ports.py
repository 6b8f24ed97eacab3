"""The shapes through which tasks reach a device's engine. Protocols and plain values only: no engine, no driver.

Engines live in `workers/engines/`; a worker process puts what its device offers into `reef.runtime`, pool by pool.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast, runtime_checkable

import msgspec

from reef.contracts.events import Event
from reef.topology import Pool

if TYPE_CHECKING:
    # an engine that is being loaded must not wait for the database library to be imported
    import numpy as np
    from numpy.typing import NDArray

    from reef.contracts.jobs import QueryJob
    from reef.knowledge.flow import Flow
    from reef.knowledge.model import Chunk, ParsedDocument, Passage
    from reef.ledger import Claim, JobRecord, Ledger
    from reef.models.keeping import Keeping
    from reef.records.database import Database
    from reef.tracing import Spans

Role = Literal["system", "user", "assistant", "tool"]
FinishReason = Literal["stop", "length", "cancelled"]
Progress = Callable[[float, str], None]
"""Called with a share done in 0..1 and a sentence for a person."""


class EngineError(RuntimeError):
    """The engine could not serve this request; the message says why, and another try may work."""


class EngineRefused(EngineError):
    """The request can never work on this engine (prompt longer than the context, bad schema): no retry."""

    code = "refused"
    """Of the run's `error` event; one of reef.contracts.events.REFUSED."""


class Cancelled(Exception):
    """The caller asked for the work to end."""


class ParseFailed(Exception):
    """A file cannot be read. `str(error)` tells a person what is wrong with it and what helps."""

    def __init__(self, code: str, message: str) -> None:
        """`code` is one of reef.knowledge.model.FAILURE_CODES."""
        super().__init__(message)
        self.code = code


class ChatMessage(msgspec.Struct, frozen=True):
    """One message of a prompt."""

    role: Role
    content: str


class ChatRequest(msgspec.Struct, frozen=True):
    """One generation.

    `cache_key` names the conversation whose prompt prefix the engine may keep warm (a session id).
    `schema` is a JSON Schema the output must satisfy. `seed` None means a fresh random one. `model` is the one that is
    wanted; empty: the loaded one. It matters where adapters are loaded: each request says which of them apply.
    """

    messages: Sequence[ChatMessage]
    tokens_max: int
    temperature: float = 0.7
    top_p: float = 0.95
    repetition_penalty: float = 1.0
    """Above 1 makes words that were just said less likely; without it small models fall into loops."""
    stop: Sequence[str] = ()
    seed: int | None = None
    schema: Mapping[str, Any] | None = None
    cache_key: str | None = None
    model: str = ""


class ChatResult(msgspec.Struct, frozen=True):
    """How a generation ended. Token counts are the engine's own; `cached_tokens` is None where it cannot tell."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int | None = None


@runtime_checkable
class Engine(Protocol):
    """What a device runs. A worker process has one that serves, and others only beside it (workers/rack.py)."""

    name: str
    """Engine kind: openvino, llama, tflite, parser, remote, simulated."""
    model: str
    """Name of the loaded model, as users know it."""

    def load(self, progress: Progress) -> None:
        """Load and warm the model. Raises EngineError with what to do next."""

    def steps(self) -> int:
        """A counter that grows with every call the device finished: what a lease is renewed from.

        A call that may take longer than a lease counts while it is watched, if the watch ends it in bounded time.
        """

    def close(self) -> None:
        """Free the device. Work in flight ends as cancelled."""


@runtime_checkable
class ChatEngine(Engine, Protocol):
    """A language model on one device, serving several conversations at once by continuous batching.

    Thread-safe: `generate` is called from as many threads as the device has streams and blocks its caller.
    """

    context_tokens: int
    """Prompt and reply together may not be longer than this."""

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """Generate a reply, calling `on_text` with each new piece of text in the caller's thread.

        Setting `cancel` ends it at the next token, during prompt processing too.
        Raises EngineError, or EngineRefused when a retry cannot help.
        """

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """Length in tokens of these messages under the model's chat template."""

    def tokens(self) -> int:
        """Tokens generated so far, of all replies together: what the device's rate is told from."""


@runtime_checkable
class EmbeddingEngine(Engine, Protocol):
    """A text encoder on one device. Thread-safe; a query overtakes documents that wait for the same device."""

    dimensions: int
    window_tokens: int
    """Longest text the model reads; longer ones are embedded in windows (reef.knowledge.model.Chunk)."""

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """One normalised vector of shape (dimensions,), before any documents that wait."""

    def embed_documents(self, texts: Sequence[str], cancel: threading.Event) -> NDArray[np.float32]:
        """Normalised vectors of shape (len(texts), dimensions). Raises EngineError; Cancelled when `cancel` is set."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in the model's own tokens, without special ones."""


@runtime_checkable
class ParsingEngine(Engine, Protocol):
    """Turns files into text in limited processes of its own. Thread-safe."""

    def parse(self, path: Path, name: str, cancel: threading.Event) -> ParsedDocument:
        """The file as text. Raises ParseFailed with a code and a sentence; Cancelled when `cancel` is set."""

    def cut(self, document: ParsedDocument) -> list[Chunk]:
        """The document in passages of the size this engine was made for."""


class TensorSpec(msgspec.Struct, frozen=True):
    """A tensor that a model reads or writes."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    """As numpy names it."""
    scale: float = 0.0
    """Quantised: value = scale * (number - zero_point). 0: the numbers are the values."""
    zero_point: int = 0


class ModelFacts(msgspec.Struct, frozen=True, kw_only=True):
    """What a loaded model says of itself."""

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    labels: tuple[str, ...] = ()
    """Names of its classes, by index; empty where nobody wrote them down."""


@runtime_checkable
class Holder(Protocol):
    """An engine that keeps model files in memory by itself, others than the one it was made for among them."""

    def resident(self) -> list[str]:
        """What is in memory, the one used last at the end: names as they were asked for, and names of files."""

    def drop(self, model: str) -> bool:
        """Let go what `resident` calls so, once nothing runs on it. False for what is not there, or is its own."""


@runtime_checkable
class InferenceEngine(Engine, Holder, Protocol):
    """Runs models of tensors on one device. Thread-safe: inputs of several callers take turns on the device."""

    def describe(self, model: str) -> ModelFacts:
        """What this model reads and writes; it is loaded where it is not yet. Raises EngineRefused, EngineError."""

    def infer(
        self, model: str, inputs: Sequence[Sequence[NDArray[Any]]], cancel: threading.Event
    ) -> list[list[NDArray[Any]]]:
        """The outputs for each of these inputs, in their order; each input has the tensors of `describe`.

        Raises EngineError, EngineRefused; Cancelled when `cancel` is set.
        """


class KnowledgeIndex(Protocol):
    """Finds passages. It can be made anew from the records at any time, and may lag behind them but never decides.

    All writes come from one process at a time (the index lane). Raises EngineError where its server is away.
    """

    def put(self, document_ids: Sequence[str], progressed: Callable[[], None]) -> None:
        """Make the windows of these documents findable in their stores and nowhere else. Twice is as good as once.

        Calls `progressed` now and then, so that a long batch keeps its lease.
        """

    def drop(self, document_ids: Sequence[str], progressed: Callable[[], None]) -> None:
        """Forget these documents' windows; their rows are still there."""

    def drop_store(self, store: str) -> None:
        """Forget a store with all that is in it; no error where there is none."""

    def search(self, job: QueryJob, vector: NDArray[np.float32]) -> list[Passage]:
        """The best passages of documents that are `indexed` in one of the job's stores, best first."""

    def search_words(self, job: QueryJob) -> list[Passage]:
        """The same by the question's words alone, which needs no server."""


class RunWriter(Protocol):
    """Writes one attempt's events into its run's log. Never blocks on the broker; bounded by the reply's length."""

    def text(self, piece: str) -> None:
        """Add text to the reply; pieces that come fast are sent together."""

    def emit(self, event: Event) -> None:
        """Add an event after the text so far; run, session and number are filled in."""

    def close(self) -> None:
        """Nothing follows; what is pending is still sent."""


StopReason = Literal["stop", "lost", "drain", "deadline"]


class Hold(Protocol):
    """A claim that is being worked on."""

    cancel: threading.Event
    """Set when the work must end; `reason` then says why."""
    reason: StopReason | None

    def progressed(self) -> None:
        """The work goes on, though the device's step counter does not show it."""


class Leases(Protocol):
    """Keeps the claims of this worker alive as long as its device makes progress."""

    def hold(self, claim: Claim) -> AbstractContextManager[Hold]:
        """Watch over a claim while its work runs."""


class Visit(Protocol):
    """A job that is about to run on a device, or does. No engine it may get is closed meanwhile."""

    def engine(self, job: JobRecord) -> Engine:
        """The engine that answers this job: the one its route names, else the newest. It stays this one."""


class Surroundings(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker process has for the jobs of one pool, whichever engine answers them."""

    node: str
    device: str
    """For who reads an answer; it names the CPU where that does the device's work."""
    pool: Pool
    database: Database
    ledger: Ledger
    leases: Leases
    open_writer: Callable[[Claim], RunWriter]
    note_affinity: Callable[[str], None]
    """Remember that this node holds a session's prompt cache."""
    observe: Callable[[ReplyMeasures], None]
    observe_inference: Callable[[int, float], None] = lambda _inputs, _seconds: None
    """Called with how many inputs a job had, and the seconds they took on the device."""
    spans: Spans | None = None
    """Where traces go, if they go anywhere."""
    knowledge: KnowledgeContext | None = None
    """What tasks of knowledge need besides; only where the pool has a part in it."""
    models: Keeping | None = None
    """What fetches models; only where the pool is maintenance."""


class Station(Surroundings, frozen=True, kw_only=True):
    """Where the jobs of one pool come to. Their engine comes with each of them (`enter`)."""

    enter: Callable[[], AbstractContextManager[Visit | None]]
    """A job comes. None where this worker serves the pool no longer."""
    pass_on: Callable[[str], None]
    """Send the hint of a job that was taken for a pool this worker serves no longer."""

    def with_engine(self, engine: Engine) -> DeviceContext:
        """What one job finds."""
        return DeviceContext(engine=engine, **{name: getattr(self, name) for name in Surroundings.__struct_fields__})


class DeviceContext(Surroundings, frozen=True, kw_only=True):
    """What a job finds in its worker process: the device, its engine and the ways out.

    What its engine can do follows from the pool: `chat`, `embedding` and `parsing` are the same engine, seen as what
    the tasks of those pools need.
    """

    engine: Engine

    @property
    def chat(self) -> ChatEngine:
        """The engine of a chat pool."""
        return cast(ChatEngine, self.engine)

    @property
    def embedding(self) -> EmbeddingEngine:
        """The engine of an embed pool."""
        return cast(EmbeddingEngine, self.engine)

    @property
    def parsing(self) -> ParsingEngine:
        """The engine of an index pool."""
        return cast(ParsingEngine, self.engine)

    @property
    def inference(self) -> InferenceEngine:
        """The engine of a media pool."""
        return cast(InferenceEngine, self.engine)

    @property
    def ingestion(self) -> KnowledgeContext:
        """What tasks of knowledge need. Raises RuntimeError in a worker of another pool."""
        if self.knowledge is None:
            raise RuntimeError(f"pool {self.pool.name} has no part in knowledge")
        return self.knowledge

    @property
    def keeping(self) -> Keeping:
        """What fetches models. Raises RuntimeError in a worker of another pool."""
        if self.models is None:
            raise RuntimeError(f"pool {self.pool.name} has no part in fetching models")
        return self.models


class KnowledgeContext(msgspec.Struct, frozen=True):
    """The ways of knowledge out of a worker."""

    flow: Flow
    index: KnowledgeIndex
    hand_on: Callable[[JobRecord], None]
    """Sends the hint of a job of another pool; one that the broker does not take is the sweeper's to send."""
    count_files: Callable[[str, str, int], None] = lambda _stage, _outcome, _files: None
    """Called with the stage, how it ended, and how many files."""
    observe_search: Callable[[float], None] = lambda _seconds: None


class ReplyMeasures(msgspec.Struct, frozen=True, kw_only=True):
    """What a finished reply tells the metrics. Seconds and tokens."""

    queue_s: float
    first_token_s: float | None
    total_s: float
    prompt_tokens: int
    completion_tokens: int
    outcome: Literal["done", "stopped", "failed"]
    prompt_s: float | None = None
    """Until the engine was asked."""
