"""OpenAI's embeddings API, and every server that speaks it (vLLM, llama.cpp, Ollama, LM Studio, Coral Reef)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from embeddings_engine.backends.base import Traits
from embeddings_engine.backends.calling import Service
from embeddings_engine.backends.service import ServiceBackend
from embeddings_engine.catalogue import card_for
from embeddings_engine.errors import BackendUnavailable

BASE_URL = "https://api.openai.com/v1"
INPUTS_MAX = 2048
REQUEST_TOKENS_MAX = 300_000
"""Both limits are OpenAI's, for one request."""
WINDOW_TOKENS = 8191


class OpenAiDialect:
    """POST /embeddings."""

    def __init__(self, model: str, dimensions: int | None) -> None:
        self._model, self._dimensions = model, dimensions

    def request(self, texts: Sequence[str], *, query: bool) -> tuple[str, dict[str, Any]]:
        body: dict[str, Any] = {"model": self._model, "input": list(texts), "encoding_format": "float"}
        if self._dimensions is not None:
            body["dimensions"] = self._dimensions
        return "/embeddings", body

    def read(self, answer: Any, count: int) -> tuple[list[list[float]], int]:
        rows = sorted(answer["data"], key=lambda entry: int(entry["index"]))
        if [row["index"] for row in rows] != list(range(count)):
            raise ValueError(f"{len(rows)} vectors for {count} texts")
        return [row["embedding"] for row in rows], int((answer.get("usage") or {}).get("total_tokens", 0))


def open_openai(model: str, service: Service) -> ServiceBackend:
    """A backend for `text-embedding-3-small` and the like. Raises BackendUnavailable."""
    card = card_for(model)
    dimensions = service.dimensions or (card.dimensions if card else None)
    if dimensions is None:
        raise BackendUnavailable(f"{model!r} is not in the catalogue: say Service(dimensions=…, window_tokens=…).")
    if not service.base_url:
        service = dataclasses.replace(service, base_url=BASE_URL)
    if service.base_url == BASE_URL and not service.api_key:
        raise BackendUnavailable("OpenAI needs a key: Service(api_key=…).")
    traits = Traits(
        name="openai",
        model=model,
        device=service.base_url,
        fingerprint=f"{service.base_url}:{model}:{dimensions}",
        dimensions=dimensions,
        window_tokens=service.window_tokens or (card.window_tokens if card else WINDOW_TOKENS),
        batch_max=INPUTS_MAX,
        batch_tokens_max=REQUEST_TOKENS_MAX,
        query_prefix=card.query_prefix if card else "",
        document_prefix=card.document_prefix if card else "",
        matryoshka=card.matryoshka if card else False,
    )
    dialect = OpenAiDialect(model, service.dimensions)
    return ServiceBackend(traits, dialect, service, card.usd_per_million_tokens if card else 0.0)
