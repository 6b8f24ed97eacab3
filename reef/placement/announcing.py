"""Telling workers that a place was decided: they look sooner; without it they see it at their next look."""

from __future__ import annotations

import logging
from collections.abc import Iterable

import redis

from reef import keys

log = logging.getLogger(__name__)


def announce(client: redis.Redis, nodes: Iterable[str]) -> None:
    """Tell the workers of these nodes. A broker that is away loses nothing but a moment."""
    try:
        for node in nodes:
            client.publish(keys.PLACEMENT_CHANNEL, node)
    except (redis.RedisError, OSError) as error:
        log.warning("the workers will see their places at their next look: the broker does not answer (%s)", error)
