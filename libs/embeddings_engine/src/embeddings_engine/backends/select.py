"""Which backend serves a model on a device. The only place that knows all of them."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path

from embeddings_engine.backends.base import Backend
from embeddings_engine.backends.calling import Service
from embeddings_engine.catalogue import card_for
from embeddings_engine.errors import BackendUnavailable, ModelUnavailable
from embeddings_engine.models import Progress, ensure_bundle, ensure_model

KINDS = ("tflite", "onnx", "gguf", "sentence_transformers", "openai", "cohere")


class DeviceFallback(UserWarning):
    """The device that was asked for is not there; the CPU does the work."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the caller asked for."""

    model: str | Path
    device: str
    backend: str | None
    threads: int
    cache_dir: Path | None
    service: Service | None
    delegate_library: str
    """Of an Edge TPU; empty: Google's, as it is installed."""
    progress: Progress


def open_backend(choice: Choice) -> Backend:
    """Load the model. Raises ModelUnavailable, BackendUnavailable or SelfTestFailed."""
    kind = choice.backend or _kind_of(choice)
    if kind not in KINDS:
        raise BackendUnavailable(f"there is no backend {kind!r}; there are {', '.join(KINDS)}.")
    if kind == "openai":
        from embeddings_engine.backends.openai import open_openai

        return open_openai(str(choice.model), choice.service or Service())
    if kind == "cohere":
        from embeddings_engine.backends.cohere import open_cohere

        return open_cohere(str(choice.model), choice.service or Service())
    return _open_local(kind, choice)


def _open_local(kind: str, choice: Choice) -> Backend:
    device = _device(choice.device, kind)
    if kind == "gguf":
        from embeddings_engine.backends.gguf import GgufBackend

        return GgufBackend(Path(choice.model), threads=choice.threads)
    if kind == "sentence_transformers":
        from embeddings_engine.backends.sentence_transformers import SentenceTransformersBackend

        return SentenceTransformersBackend(str(choice.model), device=device, threads=choice.threads)
    folder = _folder(choice)
    if kind == "onnx":
        from embeddings_engine.backends.onnx import OnnxBackend

        bundle = ensure_bundle(folder, choice.cache_dir, choice.progress, "onnx")
        return OnnxBackend(bundle, device=device, threads=choice.threads)
    from embeddings_engine.backends.tflite import DELEGATE_LIBRARY, TfliteBackend

    bundle = ensure_bundle(folder, choice.cache_dir, choice.progress)
    library = choice.delegate_library or DELEGATE_LIBRARY
    return TfliteBackend(bundle, device=device, threads=choice.threads, delegate_library=library)


def _kind_of(choice: Choice) -> str:
    card = card_for(str(choice.model))
    if card is not None and card.host != "local":
        return card.host
    if choice.service is not None:
        return "openai"
    path = Path(choice.model)
    if path.suffix == ".gguf":
        return "gguf"
    if choice.device.startswith("cuda") or choice.device == "auto":
        from embeddings_engine.backends.onnx import cuda_available

        if cuda_available():
            return "onnx"
    if (path / "model.onnx").exists() and not (path / "model.tflite").exists():
        return "onnx"
    return "tflite"


def _device(asked: str, kind: str) -> str:
    """The device to open. A missing GPU is no reason to fail: the CPU takes milliseconds a sentence, and it is said."""
    name = asked.partition(":")[0]
    if name not in ("auto", "cpu", "cuda", "tpu"):
        raise BackendUnavailable(f"there is no device {asked!r}; say auto, cpu, cuda or tpu:usb:0.")
    if name == "auto":
        return "cuda" if kind == "onnx" and _has_cuda() else "cpu"
    if name == "cuda" and (kind in ("tflite", "gguf") or (kind == "onnx" and not _has_cuda())):
        warnings.warn(
            "device='cuda' was asked for, but no ONNX Runtime with CUDA is installed (`pip install onnxruntime-gpu`): "
            "the CPU is used.",
            DeviceFallback,
            stacklevel=5,
        )
        return "cpu"
    return asked


def _has_cuda() -> bool:
    from embeddings_engine.backends.onnx import cuda_available

    return cuda_available()


def _folder(choice: Choice) -> Path:
    path = Path(choice.model)
    if path.is_dir():
        return path
    if path.is_absolute() or len(path.parts) > 2:
        raise ModelUnavailable(f"{path} is no folder. Pass the folder of a checkpoint or of a built bundle.")
    return ensure_model(str(choice.model), choice.cache_dir, choice.progress)
