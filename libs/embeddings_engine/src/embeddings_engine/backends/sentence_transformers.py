"""Any model of the sentence-transformers package (torch): for models that no faster backend here knows. Optional."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from embeddings_engine.backends.base import Traits, Usage, Vectors
from embeddings_engine.catalogue import card_for
from embeddings_engine.errors import BackendFailed, BackendUnavailable, ModelUnavailable
from embeddings_engine.estimates import estimated_windows
from embeddings_engine.tokens import Item, Span

BATCH_MAX = 32


class SentenceTransformersBackend:
    """backends.base.Backend over a SentenceTransformer."""

    def __init__(self, model: str, *, device: str = "cpu", threads: int = 1) -> None:
        """`model` is a folder, or a name that the package fetches from its hub. Raises BackendUnavailable."""
        try:
            import torch
            from sentence_transformers import SentenceTransformer
        except ImportError as error:
            raise BackendUnavailable(
                "sentence-transformers is missing: `pip install sentence-transformers`."
            ) from error
        torch.set_num_threads(threads)
        try:
            self._model = SentenceTransformer(model, device=device)
        except Exception as error:
            raise ModelUnavailable(f"sentence-transformers cannot load {model!r}: {error}") from error
        card = card_for(model)
        dimensions = (
            getattr(self._model, "get_embedding_dimension", None) or self._model.get_sentence_embedding_dimension
        )
        self.traits = Traits(
            name="sentence_transformers",
            model=model,
            device=device,
            fingerprint=f"{model}:sentence-transformers",
            dimensions=int(dimensions()),
            window_tokens=int(self._model.max_seq_length or 512),
            batch_max=BATCH_MAX,
            query_prefix=card.query_prefix if card else "",
            document_prefix=card.document_prefix if card else "",
        )

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        return [Item(text, (), tokens + 2) for text, tokens in zip(texts, self.count(texts), strict=True)]

    def count(self, texts: Sequence[str]) -> list[int]:
        found = self._model.tokenizer(list(texts), add_special_tokens=False, truncation=False)["input_ids"]
        return [len(ids) for ids in found]

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        if self.count([text])[0] <= tokens_max:
            return [Span(0, len(text))]
        return estimated_windows(text, tokens_max)

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        try:
            found = self._model.encode(
                [item.text for item in items], batch_size=len(items), normalize_embeddings=True, show_progress_bar=False
            )
        except RuntimeError as error:
            raise BackendFailed(f"torch failed on {len(items)} texts: {error}") from error
        return np.asarray(found, dtype=np.float32)

    def usage(self) -> Usage:
        return Usage()

    def close(self) -> None:
        del self._model
