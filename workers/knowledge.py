"""What a worker of the embed and index pools needs besides its engine: the flow of files, and the index."""

from __future__ import annotations

import logging
from collections.abc import Callable

import redis

from reef.knowledge.exact import ExactVectors
from reef.knowledge.flow import Flow
from reef.knowledge.indexing import PassageIndex
from reef.knowledge.originals import Originals
from reef.knowledge.progress import Progress
from reef.knowledge.vectors import VectorIndex, Vectors
from reef.ledger import JobRecord, Ledger
from reef.ports import KnowledgeContext
from reef.records.database import Database
from reef.settings import Settings
from tasks.dispatch import BrokerDown, Dispatcher

log = logging.getLogger(__name__)


def quiet_send(dispatcher: Dispatcher, *, prefer: bool = False) -> Callable[[JobRecord], None]:
    """Sends hints; one that the broker does not take is left to the sweeper. `prefer`: see Dispatcher.send."""

    def send(record: JobRecord) -> None:
        try:
            dispatcher.send(record, prefer=prefer)
        except BrokerDown as error:
            log.warning("job %s waits for the sweeper: %s", record.id, error)

    return send


def make_flow(ledger: Ledger, settings: Settings, dispatcher: Dispatcher, client: redis.Redis) -> Flow:
    """The flow of files as this process sees it."""
    originals = Originals(settings.data_dir, reserve_bytes=settings.disk_reserve_bytes)
    return Flow(ledger, dispatcher.topology, originals, Progress(client, ledger.database), quiet_send(dispatcher))


def knowledge_context(
    flow: Flow, database: Database, chroma_url: str, hand_on: Callable[[JobRecord], None]
) -> KnowledgeContext:
    """What tasks of knowledge find in their worker. Without a vector server the records themselves are searched."""
    vectors: Vectors = VectorIndex(chroma_url) if chroma_url else ExactVectors(database)
    return KnowledgeContext(flow, PassageIndex(database, vectors), hand_on)
