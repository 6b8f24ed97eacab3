"""What a worker of the embed and index pools needs besides its engine: the flow of files, and the index."""

from __future__ import annotations

from functools import partial

import redis

from reef.knowledge.exact import ExactVectors
from reef.knowledge.flow import Flow
from reef.knowledge.indexing import PassageIndex
from reef.knowledge.originals import Originals
from reef.knowledge.progress import Progress
from reef.knowledge.vectors import VectorIndex, Vectors
from reef.ledger import Ledger
from reef.metrics import WorkerMetrics
from reef.ports import KnowledgeContext
from reef.records.database import Database
from reef.settings import Settings
from tasks.dispatch import Dispatcher


def make_flow(ledger: Ledger, settings: Settings, dispatcher: Dispatcher, client: redis.Redis) -> Flow:
    """The flow of files as this process sees it."""
    originals = Originals(settings.data_dir, reserve_bytes=settings.disk_reserve_bytes)
    return Flow(ledger, dispatcher.topology, originals, Progress(client, ledger.database), dispatcher.send_or_leave)


def knowledge_context(
    flow: Flow, database: Database, chroma_url: str, dispatcher: Dispatcher, metrics: WorkerMetrics
) -> KnowledgeContext:
    """What tasks of knowledge find in their worker. Without a vector server the records themselves are searched."""
    vectors: Vectors = VectorIndex(chroma_url) if chroma_url else ExactVectors(database)
    return KnowledgeContext(
        flow,
        PassageIndex(database, vectors),
        partial(dispatcher.send_or_leave, prefer=True),
        metrics.count_files,
        metrics.observe_search,
    )
