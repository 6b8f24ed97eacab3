"""Telling what happens to models: typed events on the system channel. Nobody waits for them and none is kept."""

from __future__ import annotations

import logging
import time
from typing import Literal

import redis

from reef import keys
from reef.contracts.events import ModelNotice, encode

log = logging.getLogger(__name__)

EVERY_S = 0.25
"""Progress of one model is told at most this often."""

State = Literal["READY", "CACHED", "LOADING", "PARTIAL", "FAILED", "REMOVED"]


class Teller:
    """Publishes what happens to one or more models."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._told_at: dict[str, float] = {}

    def progress(self, model: str, share: float, note: str) -> None:
        """How far it is; too many of them are left out, the last one is never."""
        now = time.monotonic()
        if share < 1.0 and now - self._told_at.get(model, float("-inf")) < EVERY_S:
            return
        self._told_at[model] = now
        self.tell(model, "LOADING", note, share)

    def tell(self, model: str, state: State, note: str = "", share: float = 1.0) -> None:
        """The model is in another state."""
        event = ModelNotice(name=model, state=state, progress=round(share, 4), note=note, at=time.time())
        try:
            self._client.publish(keys.SYSTEM_CHANNEL, encode(event))
        except (redis.RedisError, OSError):
            log.debug("nobody hears about model %s: the broker does not answer", model)
