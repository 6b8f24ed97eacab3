"""Cohere's embed API, version 2."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from embeddings_engine.backends.base import Traits
from embeddings_engine.backends.calling import Service
from embeddings_engine.backends.service import ServiceBackend
from embeddings_engine.catalogue import card_for
from embeddings_engine.errors import BackendUnavailable

BASE_URL = "https://api.cohere.com/v2"
INPUTS_MAX = 96
"""Texts of one request, Cohere's limit."""
WINDOW_TOKENS = 512


class CohereDialect:
    """POST /embed. The service itself tells questions from documents, so no prefix is needed."""

    def __init__(self, model: str) -> None:
        self._model = model

    def request(self, texts: Sequence[str], *, query: bool) -> tuple[str, dict[str, Any]]:
        kind = "search_query" if query else "search_document"
        body = {"model": self._model, "texts": list(texts), "input_type": kind, "embedding_types": ["float"]}
        return "/embed", body | {"truncate": "NONE"}  # too long is an error, never a silent cut

    def read(self, answer: Any, count: int) -> tuple[list[list[float]], int]:
        rows = answer["embeddings"]["float"]
        if len(rows) != count:
            raise ValueError(f"{len(rows)} vectors for {count} texts")
        billed = ((answer.get("meta") or {}).get("billed_units") or {}).get("input_tokens", 0)
        return rows, int(billed)


def open_cohere(model: str, service: Service) -> ServiceBackend:
    """A backend for `embed-english-v3.0` and the like. Raises BackendUnavailable."""
    card = card_for(model)
    dimensions = service.dimensions or (card.dimensions if card else None)
    if dimensions is None:
        raise BackendUnavailable(f"{model!r} is not in the catalogue: say Service(dimensions=…, window_tokens=…).")
    service = dataclasses.replace(service, base_url=service.base_url or BASE_URL)
    if service.base_url == BASE_URL and not service.api_key:
        raise BackendUnavailable("Cohere needs a key: Service(api_key=…).")
    traits = Traits(
        name="cohere",
        model=model,
        device=service.base_url,
        fingerprint=f"{service.base_url}:{model}",
        dimensions=dimensions,
        window_tokens=service.window_tokens or (card.window_tokens if card else WINDOW_TOKENS),
        batch_max=INPUTS_MAX,
        batch_tokens_max=INPUTS_MAX * WINDOW_TOKENS,
    )
    return ServiceBackend(traits, CohereDialect(model), service, card.usd_per_million_tokens if card else 0.0)
