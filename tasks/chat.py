"""Tasks of the chat pool. A task decodes its hint and calls the domain; nothing else happens here."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Celery

from reef import runtime
from reef.contracts.jobs import ChatJob, CompletionJob, JobHint
from reef.conversation.reply import complete, write_reply
from reef.ledger.execute import execute


def register(app: Celery) -> None:
    """Make the tasks known to a worker's application."""

    @app.task(name=ChatJob.TASK)
    def generate(hint: dict[str, Any]) -> None:
        job_id = msgspec.convert(hint, JobHint).job_id
        execute(runtime.device.get(ChatJob.POOL), job_id, ChatJob, write_reply)

    @app.task(name=CompletionJob.TASK)
    def complete_messages(hint: dict[str, Any]) -> None:
        job_id = msgspec.convert(hint, JobHint).job_id
        execute(runtime.device.get(CompletionJob.POOL), job_id, CompletionJob, complete)
