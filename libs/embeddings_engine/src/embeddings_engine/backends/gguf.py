"""Embedding models in GGUF files, by llama.cpp's server inside this process (xllamacpp).

Slower than TFLite for small encoders (62 against 395 short texts a second); for models that exist in this form only.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from embeddings_engine.backends.base import Traits, Usage, Vectors, normalised
from embeddings_engine.errors import BackendFailed, BackendUnavailable, ModelUnavailable
from embeddings_engine.estimates import estimated_items, estimated_tokens, estimated_windows
from embeddings_engine.tokens import Item, Span

EMPTY = " "
"""Stands for a text without characters, which llama.cpp refuses."""
BATCH_MAX = 8
WINDOW_TOKENS = 512
_HASHED_BYTES = 8 << 20
"""The head of the file (metadata and first tensors) and its size tell two models apart."""


class GgufBackend:
    """backends.base.Backend over one in-process server."""

    def __init__(self, path: Path, *, threads: int = 1, window_tokens: int = WINDOW_TOKENS) -> None:
        """Raises BackendUnavailable or ModelUnavailable."""
        if not path.exists():
            raise ModelUnavailable(f"{path} does not exist.")
        self._server = _serve(path, threads, window_tokens)
        self._usage = Usage()
        dimensions = len(self._embed(["dimensions"])[0])
        with path.open("rb") as file:
            mark = hashlib.sha256(file.read(_HASHED_BYTES) + str(path.stat().st_size).encode()).hexdigest()
        self.traits = Traits(
            name="gguf",
            model=path.stem,
            device="cpu",
            fingerprint=f"{mark}:gguf",
            dimensions=dimensions,
            window_tokens=window_tokens,
            batch_max=BATCH_MAX,
        )

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        return estimated_items(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [estimated_tokens(text) for text in texts]

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        return estimated_windows(text, tokens_max)

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        return normalised(np.array(self._embed([item.text or EMPTY for item in items]), dtype=np.float32))

    def usage(self) -> Usage:
        return self._usage

    def close(self) -> None:
        self._server = None

    def _embed(self, texts: Sequence[str]) -> list[list[float]]:
        if self._server is None:
            raise BackendFailed("the GGUF model is closed.")
        answer = self._server.handle_embeddings({"input": list(texts), "encoding_format": "float"})
        found = json.loads(answer) if isinstance(answer, str) else answer
        if not isinstance(found, dict) or "data" not in found:
            raise BackendFailed(f"llama.cpp refused {len(texts)} texts: {str(found)[:300]}")
        rows = sorted(found["data"], key=lambda entry: int(entry["index"]))
        return [row["embedding"] for row in rows]


def _serve(path: Path, threads: int, window_tokens: int) -> Any:
    try:
        import xllamacpp
    except ImportError as error:
        raise BackendUnavailable("xllamacpp is missing: `pip install xllamacpp`.") from error
    parameters = xllamacpp.CommonParams()
    parameters.model.path = str(path)
    parameters.embedding = True
    parameters.pooling_type = xllamacpp.llama_pooling_type.LLAMA_POOLING_TYPE_MEAN
    parameters.n_parallel = 1
    parameters.n_ctx = parameters.n_batch = parameters.n_ubatch = window_tokens
    parameters.cpuparams.n_threads = parameters.cpuparams_batch.n_threads = threads or os.cpu_count() or 1
    parameters.api_keys = [secrets.token_urlsafe(24)]  # its HTTP port on loopback cannot be switched off
    parameters.ui, parameters.verbosity = False, 0
    try:
        return xllamacpp.Server(parameters)
    except RuntimeError as error:
        raise ModelUnavailable(
            f"{path} cannot be loaded ({error}): is it a GGUF file of an embedding model?"
        ) from error
