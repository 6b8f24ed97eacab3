"""Tasks of the embed pool. A task decodes its hint and calls the domain; nothing else happens here."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Celery

from reef import runtime
from reef.contracts.jobs import EmbedJob, EmbedTextsJob, GroundJob, JobHint, QueryJob
from reef.knowledge.asking import answer_query, embed_texts
from reef.knowledge.grounding import ground
from reef.knowledge.stages import embed_documents
from reef.ledger.execute import execute


def register(app: Celery) -> None:
    """Make the tasks known to a worker's application."""

    @app.task(name=EmbedJob.TASK)
    def embed(hint: dict[str, Any]) -> None:
        execute(runtime.device.get(EmbedJob.POOL), msgspec.convert(hint, JobHint).job_id, EmbedJob, embed_documents)

    @app.task(name=GroundJob.TASK)
    def before_reply(hint: dict[str, Any]) -> None:
        execute(runtime.device.get(GroundJob.POOL), msgspec.convert(hint, JobHint).job_id, GroundJob, ground)

    @app.task(name=QueryJob.TASK)
    def query(hint: dict[str, Any]) -> None:
        execute(runtime.device.get(QueryJob.POOL), msgspec.convert(hint, JobHint).job_id, QueryJob, answer_query)

    @app.task(name=EmbedTextsJob.TASK)
    def texts(hint: dict[str, Any]) -> None:
        execute(
            runtime.device.get(EmbedTextsJob.POOL), msgspec.convert(hint, JobHint).job_id, EmbedTextsJob, embed_texts
        )
