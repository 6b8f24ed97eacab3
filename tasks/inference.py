"""Tasks of the media pool. A task decodes its hint and calls the domain; nothing else happens here."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Celery

from reef import runtime
from reef.contracts.jobs import InferenceJob, JobHint
from reef.inference.running import run_inference
from reef.ledger.execute import execute


def register(app: Celery) -> None:
    """Make the tasks known to a worker's application."""

    @app.task(name=InferenceJob.TASK)
    def infer(hint: dict[str, Any]) -> None:
        job_id = msgspec.convert(hint, JobHint).job_id
        execute(runtime.device.get(InferenceJob.POOL), job_id, InferenceJob, run_inference)
