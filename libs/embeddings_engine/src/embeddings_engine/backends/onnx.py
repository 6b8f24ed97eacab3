"""ONNX Runtime: bundles built with `--format onnx`, and folders that a model hub exported. CPU, CUDA or TensorRT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from embeddings_engine.backends.base import Traits, Usage, Vectors, normalised
from embeddings_engine.backends.tflite import check_probes
from embeddings_engine.errors import BackendFailed, BackendUnavailable, ModelUnavailable
from embeddings_engine.models import Bundle
from embeddings_engine.tokens import Item, Span, TokenReader

CPU_BATCH, GPU_BATCH = 8, 64
GPU_BATCH_TOKENS = 16_384
_PROVIDERS = {"cuda": ("TensorrtExecutionProvider", "CUDAExecutionProvider"), "cpu": ()}


def cuda_available() -> bool:
    """Whether the installed ONNX Runtime can run on a CUDA device."""
    try:
        import onnxruntime
    except ImportError:
        return False
    return "CUDAExecutionProvider" in onnxruntime.get_available_providers()


class OnnxBackend:
    """backends.base.Backend over one session."""

    def __init__(self, bundle: Bundle, *, device: str = "cpu", threads: int = 1) -> None:
        """Raises BackendUnavailable, ModelUnavailable or SelfTestFailed."""
        self._tokens = TokenReader(bundle.folder)
        self._session = _session(bundle, device.partition(":")[0], threads)
        self._inputs = {entry.name for entry in self._session.get_inputs()}
        outputs = [entry.name for entry in self._session.get_outputs()]
        self._output = next((name for name in ("vector", "sentence_embedding") if name in outputs), outputs[0])
        on_gpu = self._session.get_providers()[0] != "CPUExecutionProvider"
        self.traits = Traits(
            name="onnx",
            model=bundle.name,
            device="cuda" if on_gpu else "cpu",
            fingerprint=f"{bundle.fingerprint}:onnx",
            dimensions=bundle.dimensions,
            window_tokens=bundle.window_tokens,
            batch_max=GPU_BATCH if on_gpu else CPU_BATCH,
            batch_tokens_max=GPU_BATCH_TOKENS if on_gpu else 1024,
            query_prefix=bundle.query_prefix,
            document_prefix=bundle.document_prefix,
        )
        check_probes(self, bundle, bundle.window_tokens)

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        return self._tokens.items(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return self._tokens.count(texts)

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        return self._tokens.windows(text, tokens_max)

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        width = max(item.tokens for item in items)
        ids, mask = np.zeros((len(items), width), np.int64), np.zeros((len(items), width), np.int64)
        for row, item in enumerate(items):
            ids[row, : item.tokens], mask[row, : item.tokens] = item.ids, 1
        feeds = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in self._inputs:
            feeds["token_type_ids"] = np.zeros_like(ids)
        try:
            found = self._session.run([self._output], feeds)[0]
        except Exception as error:
            raise BackendFailed(
                f"ONNX Runtime failed on {len(items)} texts of up to {width} tokens: {error}"
            ) from error
        if found.ndim == 3:  # a hub's export ends with the last layer: mean over what is no padding
            weights = mask[:, :, None].astype(np.float32)
            found = (found * weights).sum(axis=1) / weights.sum(axis=1)
        return normalised(np.asarray(found, dtype=np.float32))

    def usage(self) -> Usage:
        return Usage()

    def close(self) -> None:
        self._session = None


def _session(bundle: Bundle, device: str, threads: int) -> Any:
    try:
        import onnxruntime
    except ImportError as error:
        raise BackendUnavailable("onnxruntime is missing: `pip install onnxruntime`.") from error
    path = bundle.folder / "model.onnx"
    if not path.exists():
        raise ModelUnavailable(f"{path} is missing. Build it with `python -m embeddings_engine build --format onnx`.")
    available = onnxruntime.get_available_providers()
    wanted = [name for name in _PROVIDERS.get(device, ()) if name in available]
    if device == "cuda" and not wanted:
        raise BackendUnavailable("this ONNX Runtime has no CUDA: `pip install onnxruntime-gpu`, or use device='cpu'.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=[*wanted, "CPUExecutionProvider"])
    except Exception as error:
        raise ModelUnavailable(f"{path} cannot be loaded ({error}). Build or export it again.") from error
