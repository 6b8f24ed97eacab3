"""Which tasks a worker knows: those of its pool. Their modules are imported when a worker of that pool starts."""

from __future__ import annotations

from importlib import import_module

from celery import Celery

MODULES = {
    "chat": "tasks.chat",
    "embed": "tasks.embedding",
    "index": "tasks.indexing",
    "media": "tasks.inference",
    "maintenance": "tasks.models",
}
"""Where the tasks of a pool are; reef/contracts/jobs.py says which those are (a test holds the two together)."""


def register(app: Celery, pool: str) -> None:
    """Make a pool's tasks known to a worker's application."""
    if pool in MODULES:
        import_module(MODULES[pool]).register(app)
