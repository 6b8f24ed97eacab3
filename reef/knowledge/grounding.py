"""The stage before a reply of a persona that has documents: what they say about the question, for the chat job to use.

The chat job waits in the ledger meanwhile, but not for ever: if nobody lets it begin, it begins by itself a few
seconds later and says that the documents were not asked. So nothing here can hold up an answer.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import msgspec
import sqlalchemy as sa

from reef.contracts.jobs import ChatJob, Grounding, GroundJob, QueryJob, Source
from reef.knowledge.model import Passage
from reef.knowledge.passages import load_passages
from reef.knowledge.visible import stores_of
from reef.ledger import Claim, JobRecord
from reef.ports import DeviceContext, EngineError, Hold, RunWriter
from reef.records.tables import document_stores, documents, jobs

log = logging.getLogger(__name__)


def has_documents(connection: sa.Connection, persona_id: str) -> bool:
    """Whether there is anything this persona could look up."""
    query = (
        sa.select(document_stores.c.document_id)
        .join(documents, documents.c.id == document_stores.c.document_id)
        .where(document_stores.c.store.in_(stores_of(persona_id)), documents.c.state == "indexed")
        .limit(1)
    )
    return connection.execute(query).first() is not None


def ground(context: DeviceContext, claim: Claim, job: GroundJob, _writer: RunWriter, _hold: Hold) -> None:
    """Find the passages and let the reply begin."""
    passages, grounding = _passages(context, job)
    begun: list[JobRecord] = []

    def release(connection: sa.Connection) -> None:
        payload = connection.execute(sa.select(jobs.c.payload).where(jobs.c.id == job.run_id)).scalar()
        if payload is None:
            return  # the conversation was deleted
        sources = [Source(chunk_id=passage.chunk_id, score=passage.score) for passage in passages]
        chat = msgspec.structs.replace(msgspec.json.decode(payload, type=ChatJob), grounding=grounding, sources=sources)
        record = context.ledger.release(connection, job.run_id, chat)
        if record is not None:
            begun.append(record)

    if context.ledger.finish(claim, "done", within=release):
        for record in begun:
            context.ingestion.hand_on(record)


def passages_of(connection: sa.Connection, persona_id: str, sources: Sequence[Source]) -> list[Passage]:
    """The passages that were found, as they stand now: what was deleted or taken away meanwhile is left out."""
    scores = {source.chunk_id: source.score for source in sources}
    found = {passage.chunk_id: passage for passage in load_passages(connection, scores, stores_of(persona_id))}
    return [found[source.chunk_id] for source in sources if source.chunk_id in found]


def _passages(context: DeviceContext, job: GroundJob) -> tuple[list[Passage], Grounding]:
    """By meaning and words; by words alone where the vectors cannot be had."""
    index = context.ingestion.index
    query = QueryJob(question=job.question, stores=job.stores, k=job.k)
    try:
        found = index.search(query, context.embedding.embed_query(job.question))
    except EngineError as error:
        log.warning("run %s: %s; its documents are searched by words only", job.run_id, error)
        found = index.search_words(query)
        return found, "found" if found else "failed"
    return found, "found" if found else "nothing"
