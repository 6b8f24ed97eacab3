"""Text to embeddings: many models, many devices, one call. Nothing is loaded until an engine is made."""

from __future__ import annotations

from embeddings_engine.backends.calling import Service
from embeddings_engine.backends.select import DeviceFallback
from embeddings_engine.cache import MemoryTier, RedisTier, SqliteTier, VectorCache
from embeddings_engine.engine import EmbeddingsEngine, Stats, Windows
from embeddings_engine.errors import (
    BackendFailed,
    BackendUnavailable,
    Cancelled,
    Closed,
    EmbeddingsError,
    ModelUnavailable,
    RateLimited,
    RequestRefused,
    SelfTestFailed,
)
from embeddings_engine.models import build_bundle, ensure_bundle, ensure_model
from embeddings_engine.reduction import Int8, Pca, hamming_similarity, similarity, to_binary, truncate
from embeddings_engine.rerank import Reranker
from embeddings_engine.store import Match, VectorStore
from embeddings_engine.tokens import Span

__all__ = [
    "BackendFailed",
    "BackendUnavailable",
    "Cancelled",
    "Closed",
    "DeviceFallback",
    "EmbeddingsEngine",
    "EmbeddingsError",
    "Int8",
    "Match",
    "MemoryTier",
    "ModelUnavailable",
    "Pca",
    "RateLimited",
    "RedisTier",
    "RequestRefused",
    "Reranker",
    "SelfTestFailed",
    "Service",
    "Span",
    "SqliteTier",
    "Stats",
    "VectorCache",
    "VectorStore",
    "Windows",
    "build_bundle",
    "ensure_bundle",
    "ensure_model",
    "hamming_similarity",
    "similarity",
    "to_binary",
    "truncate",
]
__version__ = "0.1.0"
