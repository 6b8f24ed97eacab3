"""A bundle's TFLite file on ai-edge-litert (CPU), or an Edge TPU file on tflite-runtime with Google's delegate.

tflite-runtime 2.14 computes per-channel dynamic-int8 files silently wrong on the CPU (cosine 0.05), so it is used with
the delegate only, and every load is checked against the bundle's float32 vectors.
"""

from __future__ import annotations

import queue
import re
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.backends.base import SELF_TEST_COSINE_MIN, Traits, Usage, Vectors
from embeddings_engine.errors import BackendFailed, BackendUnavailable, ModelUnavailable, SelfTestFailed
from embeddings_engine.models import Bundle
from embeddings_engine.tokens import Item, Span, TokenReader

DELEGATE_LIBRARY = "libedgetpu.so.1"
CALLS_MAX = 4
"""Texts computed side by side, each by an interpreter of its own, which takes some 100 MB."""
URGENT_CALLS = 1
"""An interpreter more on a CPU, for the text that somebody waits for."""

Runners = dict[int, Any]
"""An interpreter's signatures by how many tokens they read."""


class TfliteBackend:
    """backends.base.Backend. On a CPU several interpreters of one thread: a text is too small to be shared out well."""

    def __init__(
        self, bundle: Bundle, *, device: str = "cpu", threads: int = 1, delegate_library: str = DELEGATE_LIBRARY
    ) -> None:
        """Raises BackendUnavailable, ModelUnavailable or SelfTestFailed."""
        self._tokens = TokenReader(bundle.folder)
        calls = 1 if device.startswith("tpu") else max(1, min(threads, CALLS_MAX))
        urgent = 0 if device.startswith("tpu") else URGENT_CALLS
        self._idle: queue.SimpleQueue[Runners] = queue.SimpleQueue()
        longest = 0
        for _ in range(calls + urgent):
            if device.startswith("tpu"):
                runners = _runners(_on_tpu(bundle, device, delegate_library))
            else:
                runners = _runners(_on_cpu(bundle, threads // calls))
            longest = max(runners)
            self._idle.put(runners)
        self.traits = Traits(
            name="tflite",
            model=bundle.name,
            device=device,
            fingerprint=f"{bundle.fingerprint}:tflite-int8",
            dimensions=bundle.dimensions,
            window_tokens=min(bundle.window_tokens, longest),
            batch_max=1,
            calls_at_once=calls,
            urgent_calls=urgent,
            query_prefix=bundle.query_prefix,
            document_prefix=bundle.document_prefix,
        )
        check_probes(self, bundle, longest)

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        return self._tokens.items(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._tokens.count(texts)

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        return self._tokens.windows(text, tokens_max)

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        runners = self._idle.get()
        try:
            return np.stack([_vector(runners, item.ids) for item in items])
        finally:
            self._idle.put(runners)

    def usage(self) -> Usage:
        return Usage()

    def close(self) -> None:
        while not self._idle.empty():
            self._idle.get()


def _vector(runners: Runners, ids: Sequence[int]) -> NDArray[np.float32]:
    length = next((length for length in runners if length >= len(ids)), None)
    if length is None:
        raise BackendFailed(f"a text of {len(ids)} tokens came to a model that reads {max(runners)}.")
    padded, mask = np.zeros((1, length), np.int32), np.zeros((1, length), np.int32)
    padded[0, : len(ids)], mask[0, : len(ids)] = ids, 1
    try:
        found = runners[length](ids=padded, mask=mask)
    except (RuntimeError, ValueError) as error:
        raise BackendFailed(f"the TFLite runtime failed on {len(ids)} tokens: {error}") from error
    return np.asarray(found["vector"][0], dtype=np.float32)


def check_probes(backend: Any, bundle: Bundle, longest: int) -> None:
    """Compare a loaded backend with the float32 vectors of its bundle. Raises SelfTestFailed."""
    for probe in bundle.probes:
        if len(probe.ids) > longest:
            continue
        found = backend.run([Item("", probe.ids, len(probe.ids))], query=False)[0]
        cosine = float(found @ probe.vector / max(float(np.linalg.norm(found)), 1e-12))
        if not cosine >= SELF_TEST_COSINE_MIN:
            raise SelfTestFailed(
                f"{backend.traits.name} on {backend.traits.device} computes {bundle.name} wrongly: cosine {cosine:.3f} "
                f"with the float32 vector, {SELF_TEST_COSINE_MIN} is needed. Use another runtime, or build it again."
            )


def _runners(interpreter: Any) -> Runners:
    names = [name for name in interpreter.get_signature_list() if re.fullmatch(r"s\d+", name)]
    if not names:
        raise ModelUnavailable("the TFLite file has no signatures s16, s32 …: build it with this library.")
    return {
        int(name[1:]): interpreter.get_signature_runner(name) for name in sorted(names, key=lambda name: int(name[1:]))
    }


def _on_cpu(bundle: Bundle, threads: int) -> Any:
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError as error:
        raise BackendUnavailable("ai-edge-litert is missing: `pip install ai-edge-litert`.") from error
    try:
        return Interpreter(str(bundle.folder / "model.tflite"), num_threads=threads)
    except (RuntimeError, ValueError) as error:
        raise ModelUnavailable(
            f"{bundle.folder / 'model.tflite'} cannot be loaded ({error}). Build it again."
        ) from error


def _on_tpu(bundle: Bundle, device: str, library: str) -> Any:
    """`tpu:usb:0` → the delegate's `{"device": "usb:0"}`; `tpu` alone takes the first."""
    path = bundle.folder / "model_edgetpu.tflite"
    if not path.exists():
        raise ModelUnavailable(
            f"{path} is missing. An Edge TPU runs files of Google's edgetpu_compiler only; this library builds none."
        )
    try:
        from tflite_runtime.interpreter import Interpreter, load_delegate
    except ImportError as error:
        raise BackendUnavailable(
            "tflite-runtime is missing: `pip install tflite-runtime` (Python below 3.12)."
        ) from error
    where = device.partition(":")[2]
    try:
        delegate = load_delegate(library, {"device": where} if where else {})
    except (OSError, ValueError) as error:
        raise BackendUnavailable(
            f"the Edge TPU {where or '(any)'} cannot be opened with {library} ({error}). "
            "Install libedgetpu1-std, plug the device in, or use device='cpu'."
        ) from error
    return Interpreter(str(path), experimental_delegates=[delegate])
