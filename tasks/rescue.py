"""Hints that lie where nobody looks are put where somebody does.

A hint waits on the queue of one worker (its prompt cache), of a route, or of the pool. When the last consumer of such a
queue is gone, what lies there moves to a queue of the same pool that is consumed, in one step inside the broker. A
hint that moved while its worker was only slow is harmless: the ledger's claim decides.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from typing import Any

import redis

from reef import keys
from reef.contracts.nodes import Vitals
from reef.placement.presence import Watch
from reef.topology import Pool, Topology
from tasks.dispatch import nodes_of, queues_of

log = logging.getLogger(__name__)

UNUSED_S = 10.0
"""A route that nobody serves is forgotten after this time."""
MOVE_MAX = 500
"""Hints moved from one queue in one round: the broker does nothing else meanwhile."""

# Puts a dead worker's unacknowledged messages back on their queues. KEYS: kombu's hash and index of that worker.
# kombu stores each as JSON [message, exchange, routing key]; the routing key is the queue's name here.
RESTORE_UNACKED = """
local restored = 0
for _, tag in ipairs(redis.call('HKEYS', KEYS[1])) do
  local entry = cjson.decode(redis.call('HGET', KEYS[1], tag))
  local message, queue = entry[1], entry[3]
  message['properties']['delivery_info']['redelivered'] = true
  redis.call('RPUSH', queue, cjson.encode(message))
  redis.call('HDEL', KEYS[1], tag)
  redis.call('ZREM', KEYS[2], tag)
  restored = restored + 1
end
return restored
"""
# Moves up to ARGV[1] messages from KEYS[1] to KEYS[2]. Consumers pop on the right: the oldest comes to lie there last.
MOVE = """
local moved = 0
while moved < tonumber(ARGV[1]) do
  local message = redis.call('LPOP', KEYS[1])
  if not message then break end
  redis.call('RPUSH', KEYS[2], message)
  moved = moved + 1
end
return moved
"""


def restore_unacked(client: redis.Redis, node: str) -> int:
    """Put back what a dead worker had taken and not acknowledged. Raises redis.RedisError."""
    book, index, _ = keys.unacked(node)
    return int(client.eval(RESTORE_UNACKED, 2, book, index))  # type: ignore[arg-type]


class Rescue:
    """Looks after the queues of all pools. Several may run at once."""

    def __init__(self, client: redis.Redis, topology: Topology) -> None:
        self._client, self._topology = client, topology
        self._unused: dict[str, float] = {}

    def look(self, watch: Watch) -> int:
        """One round; gives how many hints were moved. Raises redis.RedisError."""
        moved = 0
        serving = watch.serving()
        for node in self._held_by_the_dead(watch):
            moved += restore_unacked(self._client, node)
        for pool in self._topology.pools.values():
            moved += self._pool(pool, serving, watch)
        if moved:
            log.info("%d hints lay where nobody looks; they were moved", moved)
        return moved

    def _held_by_the_dead(self, watch: Watch) -> list[str]:
        names = dict.fromkeys(node for pool in self._topology.pools.values() for node in nodes_of(self._topology, pool))
        gone = watch.gone(names)
        with self._client.pipeline(transaction=False) as pipeline:
            for node in gone:
                pipeline.hlen(keys.unacked(node)[0])
            return [node for node, held in zip(gone, pipeline.execute(), strict=True) if held]

    def _pool(self, pool: Pool, serving: Mapping[str, Vitals], watch: Watch) -> int:
        queues = queues_of(self._client, self._topology, pool)
        with self._client.pipeline(transaction=False) as pipeline:
            for queue in queues:
                pipeline.llen(queue)
            waiting = dict(zip(queues, pipeline.execute(), strict=True))
        here = [vitals for vitals in serving.values() if vitals.pool == pool.name]
        consumed = self._consumed(pool, here, watch)
        self._forget_routes(pool, waiting, consumed)
        lost = [queue for queue in queues if waiting[queue] and queue not in consumed]
        if not lost:
            return 0
        target = self._target(pool, here, waiting)
        return sum(self._move(queue, target) for queue in lost if queue != target)

    @staticmethod
    def _consumed(pool: Pool, here: list[Vitals], watch: Watch) -> set[str]:
        """Queues that somebody looks at. A worker that is only starting again will look at its own."""
        consumed = {keys.node_queue(pool.queue, vitals.node) for vitals in here}
        consumed |= {keys.route_queue(pool.queue, route) for vitals in here for route in vitals.routes}
        if any(vitals.general for vitals in here):
            consumed.add(pool.queue)
        own = [pool.node(device) for device in pool.devices]
        return consumed | {keys.node_queue(pool.queue, node) for node in own if watch.presence(node) == "unknown"}

    @staticmethod
    def _target(pool: Pool, here: list[Vitals], waiting: Mapping[str, int]) -> str:
        """The pool's own queue, or where nobody takes just any job of it the shortest of those that are looked at."""
        if not here or any(vitals.general for vitals in here):
            return pool.queue
        routed = {keys.route_queue(pool.queue, route) for vitals in here for route in vitals.routes}
        return min(sorted(routed), key=lambda queue: waiting.get(queue, 0), default=pool.queue)

    def _move(self, source: str, target: str) -> int:
        moved: Any = self._client.eval(MOVE, 2, source, target, str(MOVE_MAX))
        return int(moved)

    def _forget_routes(self, pool: Pool, waiting: Mapping[str, int], consumed: set[str]) -> None:
        """A route that nobody has served for a while and on which nothing lies is used no more.

        Not at once: somebody may be sending there just now, who noted its use a moment ago.
        """
        prefix, now = keys.route_queue(pool.queue, ""), time.monotonic()
        forgotten = []
        for queue, length in waiting.items():
            if not queue.startswith(prefix) or length or queue in consumed:
                self._unused.pop(queue, None)
            elif now - self._unused.setdefault(queue, now) > UNUSED_S:
                forgotten.append(queue.removeprefix(prefix))
        if forgotten:
            self._client.srem(keys.routes_used(pool.queue), *forgotten)
