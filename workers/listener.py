"""Hearing a Redis channel, for as long as the process lives. What a channel misses is looked up elsewhere."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import redis

log = logging.getLogger(__name__)

RECONNECT_S = 0.5


class Listener:
    """Calls `heard` with each message of a channel, in a thread of its own."""

    def __init__(self, client: redis.Redis, channel: str, heard: Callable[[str], None]) -> None:
        self._client, self._channel, self._heard = client, channel, heard
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name=f"hears {channel}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop listening."""
        self._closing.set()

    def _loop(self) -> None:
        while not self._closing.is_set():
            try:
                with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:  # type: ignore[no-untyped-call]
                    pubsub.subscribe(self._channel)
                    while not self._closing.is_set():
                        message = pubsub.get_message(timeout=1.0)
                        if message is not None:
                            self._heard(message["data"].decode())
            except (redis.RedisError, OSError, ValueError) as error:
                log.warning("channel %s is not heard (%s); the records are asked instead", self._channel, error)
                self._closing.wait(RECONNECT_S)
