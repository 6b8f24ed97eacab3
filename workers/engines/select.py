"""Which engine a worker gets, and why. The only place that knows all of them."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from reef.abilities import engine_of, why_not
from reef.hurry import Hurry
from reef.models import ModelError, ModelFile, ModelStore
from reef.models.gguf import read_head
from reef.placement.model import Place
from reef.ports import ChatEngine, ChatMessage, ChatRequest, ChatResult, Engine, EngineError, Progress
from reef.settings import Settings
from reef.topology import Device, Pool, load_topology
from workers.devices import cpu, cuda
from workers.devices.last_words import trace_file
from workers.engines import llama
from workers.engines.gguf_tokenizer import can_build
from workers.engines.hands import Hands
from workers.engines.openvino_cache import UnreadableModelError

log = logging.getLogger(__name__)

OPENVINO_ARCHITECTURES = ("llama", "qwen2", "qwen3")
OPENVINO_TENSORS = frozenset({"F32", "F16", "BF16", "Q4_0", "Q4_1", "Q8_0", "Q4_K", "Q6_K"})


def choose_engine(settings: Settings, pool: Pool, device: Device) -> Engine:
    """The engine for this device of this pool, not loaded yet: what it can do follows from the pool.

    Raises EngineError with what to do next when there can be none.
    """
    if reason := why_not(pool.name, pool.engine, device.kind):
        raise EngineError(reason)
    choose = {
        "chat": _chat_engine,
        "embed": _embedding_engine,
        "index": _parsing_engine,
        "media": _inference_engine,
        "maintenance": lambda *_: Hands(),
    }[pool.name]
    return choose(settings, pool, device)


def _embedding_engine(settings: Settings, pool: Pool, device: Device) -> Engine:
    if _kind(pool, device) == "simulated":
        from workers.engines.simulated_knowledge import SimulatedEmbedding

        return SimulatedEmbedding(pool.model or "simulated")
    from workers.engines.tflite import TfliteEngine

    return TfliteEngine(
        pool.model,
        device,
        models_dir=embedding_models_dir(settings),
        hang_s=pool.limits.hang_s,
        trace_file=_trace_file(settings, pool, device),
        delegate_library=settings.edgetpu_library,
        hurry=Hurry(settings.data_dir),
    )


def _parsing_engine(settings: Settings, pool: Pool, device: Device) -> Engine:
    if _kind(pool, device) == "simulated":
        from workers.engines.simulated_knowledge import SimulatedParser

        return SimulatedParser(pool.model or "simulated")
    from reef.knowledge.chunking import ChunkSizes
    from reef.knowledge.parsing.limits import ParseLimits
    from workers.engines.encoder_files import encoder_files
    from workers.engines.parser import ParserEngine

    return ParserEngine(
        processes=pool.streams,
        limits=ParseLimits(),
        scratch_dir=settings.data_dir / "scratch" / pool.node(device),
        encoder=lambda progress: encoder_files(_embedding_model(settings), embedding_models_dir(settings), progress),
        sizes=ChunkSizes(),
    )


def _inference_engine(settings: Settings, pool: Pool, device: Device) -> Engine:
    if _kind(pool, device) == "simulated":
        from workers.engines.simulated_inference import SimulatedInference

        return SimulatedInference(pool.model or "simulated")
    from reef.inference.models import find_in
    from workers.engines.inference import TfliteInference

    return TfliteInference(
        pool.model,
        device,
        find=find_in(settings.data_dir / "models"),
        library=settings.edgetpu_library,
        hang_s=pool.limits.hang_s,
        trace_file=_trace_file(settings, pool, device),
    )


def choose_stage(settings: Settings, pool: Pool, device: Device, place: Place) -> Engine:
    """The engine of a device that is one stage of a pipeline, not loaded yet.

    The first stage is an InferenceEngine, a later one works by itself from `load` on. Raises EngineError.
    """
    from workers.pipeline.head import PipelineEngine
    from workers.pipeline.stage import Segment, StageEngine

    segment = Segment(
        place,
        device,
        models_dir=settings.data_dir / "models",
        library=settings.edgetpu_library,
        hang_s=pool.limits.hang_s,
        trace_file=settings.data_dir / "logs" / f"{place.node}.hang",
    )
    if place.stage > 0:
        return StageEngine(segment, settings.data_dir)
    allocation = load_topology(settings.queues_file).allocation
    in_flight = allocation.pipeline.in_flight if allocation and allocation.pipeline else None
    return PipelineEngine(segment, settings.data_dir, hang_s=pool.limits.hang_s, in_flight=in_flight or 0)


def _embedding_model(settings: Settings) -> str:
    """The model that will read the passages; an index pool alone (its embed pool is elsewhere) cuts for the default."""
    pools = load_topology(settings.queues_file).pools
    return pools["embed"].model if "embed" in pools else ""


def embedding_models_dir(settings: Settings) -> Path:
    """Where the embedding library keeps what it fetches and builds."""
    return settings.data_dir / "models" / "embeddings"


def _chat_engine(settings: Settings, pool: Pool, device: Device) -> ChatEngine:
    kind = _kind(pool, device)
    if kind == "simulated":
        from workers.engines.simulated import SimulatedEngine

        return SimulatedEngine(
            pool.model or "simulated",
            context_tokens=pool.context_tokens,
            hang_s=pool.limits.hang_s,
            trace_file=_trace_file(settings, pool, device),
        )
    if kind == "remote":
        from workers.engines.remote import RemoteEngine

        if not settings.remote_url:
            raise EngineError("The remote engine needs the address of a server: set REEF_REMOTE_URL.")
        return RemoteEngine(
            settings.remote_url,
            pool.model,
            api_key=settings.remote_api_key,
            context_tokens=pool.context_tokens,
            streams=pool.streams,
        )
    try:
        model = _genuine(ModelStore(settings.data_dir), pool.model)
        if kind == "auto":
            return _automatic(settings, pool, device, model)
    except ModelError as error:
        raise EngineError(str(error)) from error
    return _local(kind, settings, pool, device, model)


def _genuine(store: ModelStore, name: str) -> ModelFile:
    """The model of that name, if it is what the catalogue says under that name. Raises ModelError."""
    model = store.resolve(name)
    entry = store.catalogue.get(name)
    if entry is not None and entry.sha256 and entry.sha256 != model.sha256:
        raise ModelError(
            f"{model.path} is not {name}: its SHA-256 is {model.sha256}, the catalogue has {entry.sha256}. "
            f"Delete the file and fetch it again with `coral-reef models pull {name}`."
        )
    return model


def weight_bytes(settings: Settings, pool: Pool, device: Device) -> int:
    """Size of the weights that this device of this pool would load; 0 where it holds none or none worth counting.

    Raises EngineError where there is no such model.
    """
    kind = _kind(pool, device)
    if pool.name != "chat" or kind == "remote":
        return 0
    if kind == "simulated":
        from workers.engines.simulated import memory_bytes

        return memory_bytes(pool.model)
    try:
        return _genuine(ModelStore(settings.data_dir), pool.model).size_bytes
    except ModelError as error:
        raise EngineError(str(error)) from error


def environment(pool: Pool, device: Device) -> dict[str, str]:
    """Variables a worker's process must be started with, whichever engine it will choose."""
    chats = pool.name == "chat" and _kind(pool, device) in ("auto", "llama")
    own = cuda.environment(device.index) if device.kind == "cuda" else {}
    return own | (llama.environment() if chats else {})


def why_not_openvino(model: ModelFile) -> str:
    """Why OpenVINO cannot serve this model on this machine; empty where it can. Raises ModelError."""
    if model.adapters:
        return "it has adapters, which only llama.cpp applies"
    machine = os.uname().machine
    if machine != "x86_64":
        return f"this machine is {machine}, and openvino-genai comes for x86-64"
    if "avx2" not in cpu.flags():
        return "this CPU has no AVX2"
    head = read_head(model.path)
    if head.architecture not in OPENVINO_ARCHITECTURES:
        return f"OpenVINO does not read networks of kind {head.architecture!r} from this format"
    if strange := sorted(head.tensor_types - OPENVINO_TENSORS):
        return f"OpenVINO does not read tensors of type {', '.join(strange)}"
    return can_build(head)


def _kind(pool: Pool, device: Device) -> str:
    """The engine that a device gets: `auto` never ends up at a remote or a simulated one."""
    return engine_of(pool.name, pool.engine, device.kind)


def _automatic(settings: Settings, pool: Pool, device: Device, model: ModelFile) -> ChatEngine:
    def portable() -> ChatEngine:
        return _local("llama", settings, pool, device, model)

    reason = why_not_openvino(model)
    if reason:
        log.info("engine llama for %s: %s", model.name, reason)
        return portable()
    log.info("engine openvino for %s: it reads the model and is the fastest on this CPU", model.name)
    return WithFallback(_local("openvino", settings, pool, device, model), portable)


def _local(kind: str, settings: Settings, pool: Pool, device: Device, model: ModelFile) -> ChatEngine:
    stacks = _trace_file(settings, pool, device)
    if kind == "llama":
        return llama.LlamaEngine(
            model,
            streams=pool.streams,
            context_tokens=pool.context_tokens,
            hang_s=pool.limits.hang_s,
            trace_file=stacks,
        )
    if model.adapters:
        raise EngineError(f"{model.name} has adapters, which OpenVINO does not apply: set `engine: llama` or auto.")
    from workers.engines.openvino import OpenVinoEngine

    return OpenVinoEngine(
        model,
        streams=pool.streams,
        context_tokens=pool.context_tokens,
        hang_s=pool.limits.hang_s,
        trace_file=stacks,
        on_dead=_leave,
    )


def _leave(reason: str) -> None:
    """The device process is gone: so is this worker. The supervisor frees its jobs and starts both again.

    At once, not in good order: whether a job is to blame is decided in one place for every death (Ledger.free).
    """
    log.error("the device cannot go on (%s); this worker ends", reason)
    logging.shutdown()
    os._exit(1)


def _trace_file(settings: Settings, pool: Pool, device: Device) -> Path:
    # a device may be opened under another name than its worker has: workers/devices/keeper.py
    return trace_file(settings.data_dir, settings.node or pool.node(device))


class WithFallback:
    """reef.ports.ChatEngine that loads a second engine where the first cannot read the model."""

    def __init__(self, first: ChatEngine, second: Callable[[], ChatEngine]) -> None:
        self._engine, self._second = first, second
        self._describe()

    def _describe(self) -> None:
        self.name, self.model = self._engine.name, self._engine.model
        self.context_tokens = self._engine.context_tokens

    def load(self, progress: Progress) -> None:
        """Load the first engine, or else the second."""
        try:
            self._engine.load(progress)
        except UnreadableModelError as error:
            log.warning("%s; another engine takes over", error)
            self._engine.close()
            self._engine = self._second()
            self._engine.load(progress)
        self._describe()

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """See reef.ports.ChatEngine."""
        return self._engine.generate(request, on_text, cancel)

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """See reef.ports.ChatEngine."""
        return self._engine.count_tokens(messages)

    def tokens(self) -> int:
        """See reef.ports.ChatEngine."""
        return self._engine.tokens()

    def steps(self) -> int:
        """See reef.ports.ChatEngine."""
        return self._engine.steps()

    def close(self) -> None:
        """See reef.ports.ChatEngine."""
        self._engine.close()
