"""Hints that wait where nobody takes them any more: put onto a queue that is served.

The ledger would notice in seconds and send them again; this is for the person who waits for those seconds.
"""

from __future__ import annotations

import logging
import time

import redis

from reef import keys
from reef.nodes import read_reports

log = logging.getLogger(__name__)

LOOK_AFTER_S = 10.0
"""A sender may still believe for a moment that a queue is served which was just left."""
MOVED_MAX = 1000
"""In one go: a script holds up the broker."""

# The newest first onto the right end, so that the oldest is taken first there, too. KEYS: from, to; ARGV: how many.
# kombu keeps the queue's name inside each message, for giving it back.
MOVE = """
local moved = 0
while moved < tonumber(ARGV[1]) do
  local raw = redis.call('LPOP', KEYS[1])
  if not raw then break end
  local message = cjson.decode(raw)
  message['properties']['delivery_info']['routing_key'] = KEYS[2]
  message['properties']['delivery_info']['exchange'] = KEYS[2]
  redis.call('RPUSH', KEYS[2], cjson.encode(message))
  moved = moved + 1
end
return moved
"""


class Strays:
    """Queues this worker has left, for a while after."""

    def __init__(self, client: redis.Redis, node: str) -> None:
        self._client, self._node = client, node
        self._left: dict[str, tuple[str, str, float]] = {}

    @property
    def any(self) -> bool:
        """Whether a queue has to be looked after."""
        return bool(self._left)

    def left(self, queue: str, pool: str, to: str) -> None:
        """This worker takes nothing from `queue` of `pool` any more; `to` is the queue that all of the pool serve."""
        self._left[queue] = (pool, to, time.monotonic() + LOOK_AFTER_S)

    def back(self, queue: str) -> None:
        """It takes from it again."""
        self._left.pop(queue, None)

    def move(self) -> None:
        """Move what nobody else takes. What the broker does not do now is tried again."""
        for queue, (pool, to, until) in list(self._left.items()):
            try:
                if self._client.llen(queue) and not self._is_served(queue, pool, to):
                    moved = self._client.eval(MOVE, 2, queue, to, str(MOVED_MAX))
                    log.info("%s hints of %s go on to %s", moved, queue, to)
            except (redis.RedisError, OSError) as error:
                log.warning("hints may wait at %s: the broker does not answer (%s)", queue, error)
                continue
            if time.monotonic() >= until:
                self._left.pop(queue, None)

    def _is_served(self, queue: str, pool: str, to: str) -> bool:
        """Whether another live worker takes from it."""
        return any(
            node != self._node
            and report.pool == pool
            and queue in {keys.route_queue(to, route) for route in report.routes}
            for node, report in read_reports(self._client).items()
        )
