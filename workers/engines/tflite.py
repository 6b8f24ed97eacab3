"""The text encoder of an embed pool: our library `embeddings_engine` behind reef.ports.EmbeddingEngine.

On CPU cores it runs ai-edge-litert, on an Edge TPU tflite-runtime with Google's delegate. The model is fetched as data
and built once into the data directory. Nothing is computed here.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from reef.hurry import Hurry
from reef.ports import Cancelled, EngineError, Progress
from reef.priority import give_way_in_thread
from reef.topology import Device
from workers.devices.base import DeviceFault
from workers.engines.encoder_files import DEFAULT_MODEL, encoder_files
from workers.watchdog import Watchdog

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from embeddings_engine import EmbeddingsEngine

CACHE_BYTES = 16 << 20
"""Vectors kept in memory: a question that is asked again costs nothing. Documents are embedded once anyway."""
BULK_NICE = 9
"""So much less than the rest of this process: what finds passages for a question does not wait behind documents."""
FIRST_HANG_S = 600.0
"""Reading a model from a slow disk is no device call that hangs."""
T = TypeVar("T")


class TfliteEngine:
    """reef.ports.EmbeddingEngine over embeddings_engine."""

    name = "tflite"

    def __init__(
        self,
        model: str,
        device: Device,
        *,
        models_dir: Path,
        hang_s: float,
        trace_file: Path,
        delegate_library: str = "",
        hurry: Hurry | None = None,
        threads: int | None = None,
    ) -> None:
        """`model` is a name of the library's catalogue or a folder. Nothing is loaded yet.

        `hurry`: documents stand back while somebody waits for a first word.
        """
        self.model = model or DEFAULT_MODEL
        self.dimensions = self.window_tokens = 0
        self._device, self._models_dir, self._delegate_library = device, models_dir, delegate_library
        self._threads = threads or len(device.cores) or len(os.sched_getaffinity(0))
        self._watchdog = Watchdog(hang_s, trace_file)
        self._hang_s = hang_s
        self._engine: EmbeddingsEngine | None = None
        self._hurry, self._bulk_thread = hurry, threading.local()

    def load(self, progress: Progress) -> None:
        """Fetch, build, load and check the model. Raises EngineError with what to do next."""
        from embeddings_engine import EmbeddingsEngine, MemoryTier, VectorCache
        from embeddings_engine.errors import BackendUnavailable, EmbeddingsError

        bundle = encoder_files(self.model, self._models_dir, lambda share, note: progress(share * 0.9, note))
        self._watchdog.timeout_s = max(self._hang_s, FIRST_HANG_S)
        try:
            self._engine = EmbeddingsEngine(
                bundle.folder,
                _library_device(self._device),
                backend="tflite",
                threads=self._threads,
                cache=VectorCache(MemoryTier(CACHE_BYTES)),
                guard=self._watchdog.guard,
                before_bulk=self._before_bulk,
                delegate_library=self._delegate_library,
            )
        except (EmbeddingsError, OSError) as error:
            of_device = self._device.kind == "edgetpu" and isinstance(error, BackendUnavailable)
            kind = DeviceFault if of_device else EngineError
            raise kind(f"The embedding model {self.model} cannot be used: {error}") from error
        self.dimensions, self.window_tokens = self._engine.dimensions, self._engine.window_tokens
        self._watchdog.timeout_s = self._hang_s
        progress(1.0, "")

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """See reef.ports.EmbeddingEngine."""
        if self._hurry is not None:
            self._hurry.mark()
        return self._call(lambda engine: engine.encode_query(text))

    def embed_documents(self, texts: Sequence[str], cancel: threading.Event) -> NDArray[np.float32]:
        """See reef.ports.EmbeddingEngine."""
        return self._call(lambda engine: engine.encode_document(list(texts), cancel=cancel, priority="bulk"))

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """See reef.ports.EmbeddingEngine."""
        return self._call(lambda engine: engine.count_tokens(texts))

    def steps(self) -> int:
        """Device calls so far."""
        return 0 if self._engine is None else self._engine.steps

    def close(self) -> None:
        """Free the device; calls that wait end with EngineError."""
        engine, self._engine = self._engine, None
        if engine is not None:
            engine.close()
        self._watchdog.close()

    def _before_bulk(self) -> None:
        if not hasattr(self._bulk_thread, "gives_way"):
            self._bulk_thread.gives_way = True
            give_way_in_thread(BULK_NICE)
        if self._hurry is not None:
            self._hurry.stand_back()

    def _call(self, work: Callable[[EmbeddingsEngine], T]) -> T:
        from embeddings_engine import errors

        if self._engine is None:
            raise EngineError("The embedding engine is not loaded.")
        try:
            return work(self._engine)
        except errors.Cancelled as error:
            raise Cancelled from error
        except errors.EmbeddingsError as error:
            raise EngineError(f"The embedding engine failed: {error}") from error


def _library_device(device: Device) -> str:
    """A device of queues.yaml in the library's words: `cpu`, `tpu:usb:0`."""
    return f"tpu:{device.name}" if device.kind == "edgetpu" else "cpu"
