"""Logging of worker processes: one line each to stderr, which the supervisor keeps in a rotated file."""

from __future__ import annotations

import logging

from reef.settings import Settings


def configure_logging(settings: Settings) -> None:
    """Send this process's log to stderr at the configured level."""
    logging.basicConfig(
        level=settings.log_level.upper(),
        format="%(asctime)s %(levelname)s %(name)s: %(message)s",
        force=True,
    )
    # these log each request or each reconnection at INFO, with nothing an operator acts on
    for name in ("httpx", "httpcore", "celery.worker.strategy", "celery.app.trace", "amqp"):
        logging.getLogger(name).setLevel(logging.WARNING)
