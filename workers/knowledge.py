"""What a worker of the embed and index pools needs besides its engine: the flow of files, and the index."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import redis

from embeddings_engine import EmbeddingsError, Reranker, Service
from reef.knowledge.exact import ExactVectors
from reef.knowledge.flow import Flow
from reef.knowledge.indexing import PassageIndex
from reef.knowledge.originals import Originals
from reef.knowledge.progress import Progress
from reef.knowledge.reranking import RerankFailed, Reranking
from reef.knowledge.vectors import VectorIndex, Vectors
from reef.ledger import Ledger
from reef.metrics import WorkerMetrics
from reef.ports import KnowledgeContext
from reef.records.database import Database
from reef.settings import Settings
from tasks.dispatch import Dispatcher

RERANK_S = 2.0
"""A reranker that needs longer than this is a failed one: a person waits for the answer."""


def make_flow(ledger: Ledger, settings: Settings, dispatcher: Dispatcher, client: redis.Redis) -> Flow:
    """The flow of files as this process sees it."""
    originals = Originals(settings.data_dir, reserve_bytes=settings.disk_reserve_bytes)
    return Flow(ledger, dispatcher.topology, originals, Progress(client, ledger.database), dispatcher.send_or_leave)


def knowledge_context(
    flow: Flow, database: Database, settings: Settings, dispatcher: Dispatcher, metrics: WorkerMetrics
) -> KnowledgeContext:
    """What tasks of knowledge find in their worker. Without a vector server the records themselves are searched."""
    vectors: Vectors = VectorIndex(settings.chroma_url) if settings.chroma_url else ExactVectors(database)
    return KnowledgeContext(
        flow,
        PassageIndex(database, vectors, make_reranking(settings)),
        partial(dispatcher.send_or_leave, prefer=True),
        metrics.count_files,
        metrics.observe_search,
    )


def make_reranking(settings: Settings) -> Reranking | None:
    """The reranker of these settings, None where they name none."""
    if not settings.rerank_url:
        return None

    service = Service(base_url=settings.rerank_url, api_key=settings.rerank_api_key, timeout_s=RERANK_S, attempts_max=1)
    reranker = Reranker(settings.rerank_model, service)

    def rank(question: str, texts: Sequence[str]) -> Sequence[float]:
        try:
            scores: list[float] = reranker.rank(question, texts).tolist()
        except EmbeddingsError as error:
            raise RerankFailed(str(error)) from error
        return scores

    return Reranking(rank)
