"""Which of these texts answer a question best, asked of a service that reads question and text together.

POST /rerank as Cohere documents it (https://docs.cohere.com/reference/rerank); llama.cpp's server, vLLM, Jina and
Infinity answer the same request.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.backends.base import Usage
from embeddings_engine.backends.calling import Caller, Service
from embeddings_engine.errors import BackendFailed, BackendUnavailable, RequestRefused

TEXTS_MAX = 1_000
"""Of one question; Cohere takes no more."""


class Reranker:
    """A reranking model behind a service. Thread-safe."""

    def __init__(self, model: str, service: Service) -> None:
        """`model` may be empty for a server that has only one. Raises BackendUnavailable without an address."""
        if not service.base_url:
            raise BackendUnavailable("A reranker needs an address: Service(base_url=…), which ends before /rerank.")
        self.model = model
        self._caller = Caller(service)

    def rank(self, question: str, texts: Sequence[str]) -> NDArray[np.float32]:
        """How well each text answers the question: shape (n,), in their order, higher is better.

        The scale is the model's own: Cohere gives 0 to 1, others give logits. Raises RequestRefused for more than
        TEXTS_MAX texts or what the service refuses, RateLimited and BackendFailed.
        """
        if not texts:
            return np.empty(0, dtype=np.float32)
        if len(texts) > TEXTS_MAX:
            raise RequestRefused(f"{len(texts)} texts for one question; at most {TEXTS_MAX} are ranked.")
        body: dict[str, Any] = {"query": question, "documents": list(texts), "top_n": len(texts)}
        answer = self._caller.ask("/rerank", body | ({"model": self.model} if self.model else {}))
        try:
            scores = _read(answer, len(texts))
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise BackendFailed(
                f"{self._caller.address} answered with something else than a ranking ({error!r})."
            ) from error
        return scores

    def usage(self) -> Usage:
        """Requests and retries so far; what a search costs is between you and the service."""
        return self._caller.usage

    def close(self) -> None:
        """Nothing is asked any more."""
        self._caller.close()


def _read(answer: Any, count: int) -> NDArray[np.float32]:
    scores = np.full(count, np.nan, dtype=np.float32)
    for result in answer["results"]:
        place, score = int(result["index"]), float(result["relevance_score"])
        if not 0 <= place < count or not math.isfinite(score):
            raise ValueError(f"text {place} has score {score}")
        scores[place] = score
    if np.isnan(scores).any():
        raise ValueError(f"{int(np.isnan(scores).sum())} of {count} texts have no score")
    return scores
