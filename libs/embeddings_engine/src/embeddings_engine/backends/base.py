"""The shape of a backend. A new runtime is one module with this shape and a line in `select.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.tokens import Item, Span

Vectors = NDArray[np.float32]
SELF_TEST_COSINE_MIN = 0.98
"""Below it a runtime computes another model than the one it was given. Dynamic int8 stays above 0.99."""


@dataclass(frozen=True)
class Traits:
    """What the engine needs to know of a loaded backend."""

    name: str
    model: str
    device: str
    """Where it really runs, which can be the CPU although a GPU was asked for."""
    fingerprint: str
    """Two backends with one fingerprint give interchangeable vectors: the key of the cache."""
    dimensions: int
    window_tokens: int
    """Longest text it reads, special tokens included."""
    batch_max: int
    """Most texts in one call. 1 where a batch is no faster than its parts."""
    batch_tokens_max: int = 4096
    """Most tokens in one call, padding counted: how long an interactive text may have to wait for a bulk call."""
    calls_at_once: int = 1
    """How many calls may run at the same time: 1 for a device, more for a service."""
    urgent_calls: int = 0
    """So many more for interactive work only, where that costs little: a question waits for no document then."""
    query_prefix: str = ""
    document_prefix: str = ""
    matryoshka: bool = False


@dataclass(frozen=True)
class Usage:
    """What a service was asked for and charged so far. All zero for local backends."""

    requests: int = 0
    retries: int = 0
    tokens: int = 0
    usd: float = 0.0


class Backend(Protocol):
    """A loaded model. `prepare`, `count` and `windows` may run beside `run`; `run` as often at once as traits allow."""

    traits: Traits

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        """Everything that can be done before the device is free: tokenising."""

    def count(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in the model's tokens, special ones not counted; an upper estimate for a service."""

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        """Spans of at most `tokens_max` tokens, special ones not counted, that together cover the text."""

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        """One device call: normalised float32 vectors, one per item. Raises BackendFailed."""

    def usage(self) -> Usage:
        """Requests, tokens and cost so far."""

    def close(self) -> None:
        """Free the device or the connections."""


def normalised(vectors: Vectors) -> Vectors:
    """Rows scaled to length 1; a row of zeros stays zero."""
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.maximum(lengths, 1e-12), dtype=np.float32)
