"""A simulated device of a media pool, for tests and capacity runs. Never chosen by itself.

It knows one model of every name: a small picture in, ten scores out, worked out from a hash of the picture. Nothing is
recognised. The first bytes of an input can be a command, so that faults can be tried on a running product:

    !crash       the process is killed at once
    !fail        the device reports an error, which is worth another try

The pool's model sets the pace: `simulated`, or `simulated:invoke_ms=20` (an input).
"""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reef.ports import Cancelled, EngineError, ModelFacts, Progress, TensorSpec

CLASSES = 10
INPUT = TensorSpec("simulated picture", (1, 16, 16, 3), "uint8")
OUTPUT = TensorSpec("simulated scores", (1, CLASSES), "uint8", 1 / 256, 0)


class SimulatedInference:
    """reef.ports.InferenceEngine without a model."""

    name = "simulated"

    def __init__(self, model: str) -> None:
        """Raises EngineError for a pace that means nothing."""
        self.model = model
        name, _, value = model.partition(":")[2].partition("=")
        if model.partition(":")[2] and (name != "invoke_ms" or not value.isdigit()):
            raise EngineError(f"model {model!r}: this simulated device understands invoke_ms=N, in milliseconds.")
        self._invoke_s = int(value or 0) / 1000
        self._turn = threading.Lock()
        self._steps = 0

    def load(self, progress: Progress) -> None:
        """There is nothing to load."""
        progress(1.0, "simulated device: nothing to load")

    def describe(self, model: str) -> ModelFacts:
        """The same whatever is asked for."""
        labels = tuple(f"simulated {number}" for number in range(CLASSES))
        return ModelFacts(name=model, inputs=(INPUT,), outputs=(OUTPUT,), labels=labels)

    def infer(
        self, model: str, inputs: Sequence[Sequence[NDArray[Any]]], cancel: threading.Event
    ) -> list[list[NDArray[Any]]]:
        """See reef.ports.InferenceEngine."""
        outputs: list[list[NDArray[Any]]] = []
        for tensors in inputs:
            content = tensors[0].tobytes()
            _obey(content)
            with self._turn:
                if cancel.wait(self._invoke_s) if self._invoke_s else cancel.is_set():
                    raise Cancelled
                self._steps += 1
            digest = hashlib.sha256(model.encode() + content).digest()
            outputs.append([np.frombuffer(digest[:CLASSES], np.uint8).reshape(OUTPUT.shape)])
        return outputs

    def resident(self) -> list[str]:
        """No file is behind any of its models."""
        return []

    def drop(self, model: str) -> bool:
        """There is nothing to let go."""
        return False

    def steps(self) -> int:
        """Calls so far."""
        return self._steps

    def close(self) -> None:
        """There is nothing to free."""


def _obey(content: bytes) -> None:
    if content.startswith(b"!crash"):
        os.kill(os.getpid(), signal.SIGKILL)
    if content.startswith(b"!fail"):
        raise EngineError("The simulated device failed, as it was told to.")
