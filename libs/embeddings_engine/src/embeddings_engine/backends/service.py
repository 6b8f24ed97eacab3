"""An embedding service as a backend. Knows no service; `openai.py` and `cohere.py` do, `calling.py` does the asking."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Protocol

import numpy as np

from embeddings_engine.backends.base import Traits, Usage, Vectors, normalised
from embeddings_engine.backends.calling import Caller, Service
from embeddings_engine.errors import BackendFailed
from embeddings_engine.estimates import estimated_items, estimated_tokens, estimated_windows
from embeddings_engine.tokens import Item, Span

EMPTY = " "
"""Stands for a text without characters, which services refuse."""


class Dialect(Protocol):
    """What differs between services."""

    def request(self, texts: Sequence[str], *, query: bool) -> tuple[str, dict[str, Any]]:
        """Path under the base URL, and the body."""

    def read(self, answer: Any, count: int) -> tuple[list[list[float]], int]:
        """Vectors in the order of the texts, and the tokens charged. Raises KeyError, TypeError or ValueError."""


class ServiceBackend:
    """backends.base.Backend over HTTP. Thread-safe."""

    def __init__(self, traits: Traits, dialect: Dialect, service: Service, usd_per_million_tokens: float) -> None:
        self._caller = Caller(service)
        self.traits = dataclasses.replace(traits, calls_at_once=service.calls_at_once)
        self._dialect = dialect
        self._price = (
            usd_per_million_tokens if service.usd_per_million_tokens is None else service.usd_per_million_tokens
        )

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        return estimated_items(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [estimated_tokens(text) for text in texts]

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        return estimated_windows(text, tokens_max)

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        path, body = self._dialect.request([item.text or EMPTY for item in items], query=query)
        answer = self._caller.ask(path, body)
        try:
            rows, tokens = self._dialect.read(answer, len(items))
            found = _checked(rows, (len(items), self.traits.dimensions))
        except (KeyError, TypeError, ValueError) as error:
            raise BackendFailed(
                f"{self._caller.address} answered with something else than embeddings ({error!r})."
            ) from error
        self._caller.charge(tokens, tokens * self._price / 1e6)
        return normalised(found)

    def usage(self) -> Usage:
        return self._caller.usage

    def close(self) -> None:
        self._caller.close()

    def __enter__(self) -> ServiceBackend:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _checked(rows: list[list[float]], shape: tuple[int, int]) -> Vectors:
    found = np.array(rows, dtype=np.float32)
    if found.shape != shape or not np.isfinite(found).all():
        raise ValueError(f"vectors of shape {found.shape} instead of {shape}")
    return found
