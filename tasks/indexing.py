"""Tasks of the index pool. A task decodes its hint and calls the domain; nothing else happens here."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Celery

from reef import runtime
from reef.contracts.jobs import IndexJob, JobHint, ParseJob
from reef.knowledge.stages import index_documents, parse_documents
from reef.ledger.execute import execute


def register(app: Celery) -> None:
    """Make the tasks known to a worker's application."""

    @app.task(name=ParseJob.TASK)
    def parse(hint: dict[str, Any]) -> None:
        execute(runtime.device.get(ParseJob.POOL), msgspec.convert(hint, JobHint).job_id, ParseJob, parse_documents)

    @app.task(name=IndexJob.TASK)
    def write_index(hint: dict[str, Any]) -> None:
        execute(runtime.device.get(IndexJob.POOL), msgspec.convert(hint, JobHint).job_id, IndexJob, index_documents)
