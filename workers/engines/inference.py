"""Models of a media pool on one device (reef.ports.InferenceEngine): kept loaded, run one input at a time, watched.

A model is loaded when it is first asked for and stays until others need its place or an operator unloads it; the one
the engine was made for stays. What a model costs in memory is counted by its file; its working memory is about as much
again.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reef.inference.models import FindModel, labels_of
from reef.ports import Cancelled, EngineError, ModelFacts, Progress
from reef.topology import Device
from workers.engines.tflite_runtime import Identity, LoadedModel, Runtime, identify
from workers.watchdog import Watchdog

if TYPE_CHECKING:
    from numpy.typing import NDArray

log = logging.getLogger(__name__)

MODELS_MAX = 8
MODELS_BYTES_MAX = 512 << 20
FIRST_HANG_S = 120.0
"""An Edge TPU gets its firmware when it is first opened, and a model may come from a slow disk."""


class TfliteInference:
    """reef.ports.InferenceEngine over TFLite. Inputs of several callers take turns, one call of the device each."""

    name = "tflite"

    def __init__(
        self,
        model: str,
        device: Device,
        *,
        find: FindModel,
        library: str,
        hang_s: float,
        trace_file: Path,
        models_max: int = MODELS_MAX,
        bytes_max: int = MODELS_BYTES_MAX,
    ) -> None:
        """`model` is loaded at the start; empty: none is. Nothing is opened yet."""
        self.model = model
        self._device, self._find, self._library = device, find, library
        self._models_max, self._bytes_max = models_max, bytes_max
        self._watchdog, self._hang_s = Watchdog(hang_s, trace_file), hang_s
        self._runtime: Runtime | None = None
        self._loaded: OrderedDict[Identity, tuple[LoadedModel, ModelFacts]] = OrderedDict()
        self._turn = threading.Lock()
        self._steps = 0

    def load(self, progress: Progress) -> None:
        """Open the device and load the pool's model. Raises EngineError with what to do next."""
        progress(0.1, f"Opening {self._device.name}.")
        self._watchdog.timeout_s = max(self._hang_s, FIRST_HANG_S)
        with self._watchdog.guard():
            self._runtime = Runtime(self._device, self._library)
            if self.model:
                self._obtain(self.model)
        self._watchdog.timeout_s = self._hang_s
        progress(1.0, "")

    def describe(self, model: str) -> ModelFacts:
        """See reef.ports.InferenceEngine."""
        with self._watchdog.guard() as renew, self._turn:
            renew()
            return self._obtain(model)[1]

    def infer(
        self, model: str, inputs: Sequence[Sequence[NDArray[Any]]], cancel: threading.Event
    ) -> list[list[NDArray[Any]]]:
        """See reef.ports.InferenceEngine."""
        outputs: list[list[NDArray[Any]]] = []
        with self._watchdog.guard() as renew:
            with self._turn:
                renew()
                loaded, _ = self._obtain(model)
            for tensors in inputs:
                if cancel.is_set():
                    raise Cancelled
                outputs.append(self._run(loaded, list(tensors), renew))
        return outputs

    def resident(self) -> list[str]:
        """See reef.ports.Holder."""
        held = [(facts.name, identity.path.stem) for identity, (_, facts) in list(self._loaded.items())]
        return list(dict.fromkeys(name for names in held for name in names))

    def drop(self, model: str) -> bool:
        """See reef.ports.Holder."""
        with self._turn:
            gone = [
                known for known in self._loaded if model in self._names(known) and self.model not in self._names(known)
            ]
            for identity in gone:
                del self._loaded[identity]
                log.info("%s leaves the memory of %s: it was unloaded", identity.path.name, self._device.name)
        return bool(gone)

    def steps(self) -> int:
        """Calls of the device so far, loading a model among them."""
        return self._steps

    def close(self) -> None:
        """Free the device; calls that wait end with EngineError."""
        with self._turn:
            self._loaded.clear()
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None
        self._watchdog.close()

    def _run(self, loaded: LoadedModel, tensors: list[NDArray[Any]], renew: Callable[[], None]) -> list[NDArray[Any]]:
        with self._turn:
            renew()  # the wait for the turn was another caller's time, watched there
            if self._runtime is None:
                raise EngineError("The device was closed.")
            found = loaded.run(tensors)
            self._steps += 1
        renew()
        return found

    def _obtain(self, name: str) -> tuple[LoadedModel, ModelFacts]:
        """The model of that name, loaded where it is not or where its file is another one by now."""
        if self._runtime is None:
            raise EngineError("The device is not open.")
        identity = identify(self._find(name, self._runtime.compiled))
        if identity in self._loaded:
            self._loaded.move_to_end(identity)
            return self._loaded[identity]
        self._make_room(identity)
        loaded = self._runtime.load(identity.path)
        facts = ModelFacts(name=name, inputs=loaded.inputs, outputs=loaded.outputs, labels=labels_of(identity.path))
        self._loaded[identity] = (loaded, facts)
        self._steps += 1
        log.info("%s is loaded on %s, %d models in memory", identity.path.name, self._device.name, len(self._loaded))
        return loaded, facts

    def _make_room(self, new: Identity) -> None:
        for old in [known for known in self._loaded if known.path == new.path]:
            del self._loaded[old]
        others = [known for known in self._loaded if self.model not in self._names(known)]
        while others and (
            len(self._loaded) >= self._models_max
            or sum(one.size_bytes for one in self._loaded) + new.size_bytes > self._bytes_max
        ):
            gone = others.pop(0)
            del self._loaded[gone]
            log.info("%s leaves the memory of %s", gone.path.name, self._device.name)

    def _names(self, identity: Identity) -> tuple[str, str]:
        """What a loaded model was asked for by, and what its file is called."""
        return self._loaded[identity][1].name, identity.path.stem
