"""Tasks of the maintenance pool. A task decodes its hint and calls the domain; nothing else happens here."""

from __future__ import annotations

from typing import Any

import msgspec
from celery import Celery

from reef import runtime
from reef.contracts.jobs import FetchModelJob, JobHint
from reef.ledger.execute import execute
from reef.models.fetching import fetch_model


def register(app: Celery) -> None:
    """Make the tasks known to a worker's application."""

    @app.task(name=FetchModelJob.TASK)
    def fetch(hint: dict[str, Any]) -> None:
        execute(
            runtime.device.get(FetchModelJob.POOL), msgspec.convert(hint, JobHint).job_id, FetchModelJob, fetch_model
        )
