"""The event log of a run in Redis: numbered, capped, replayable, and closed to workers that lost their claim.

An event's number is `token * NUMBERS_PER_CLAIM + n`, where token is the claim's fencing token (0 before the first
claim). It is also the id of its stream entry, and Redis refuses an id that is not above the last one: once the next
claim has written, the worker before it can append nothing. Readers keep the highest number they saw and drop the rest,
which fences the live channel too.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import redis

from reef import keys
from reef.contracts.events import Event, RunEvent, decode, encode

NUMBERS_PER_CLAIM = 1_000_000
"""More events than one attempt of a run can have."""
REPLAY_MAX = 5_000
"""Events read at once when a client catches up."""
LOG_KEPT_MIN = keys.RUN_EVENTS_MAX
"""Redis trims a log to about this many entries; a shorter one than was written means that it was lost."""


class Fenced(Exception):
    """Another claim has written to this run: this writer's word no longer counts."""


def number(token: int, n: int) -> int:
    """The number of the n-th event (from 1) under a claim."""
    return token * NUMBERS_PER_CLAIM + n


def token_of(seq: int) -> int:
    """The fencing token under which an event was written."""
    return seq // NUMBERS_PER_CLAIM


def queue_append(pipeline: redis.client.Pipeline, event: Event) -> None:
    """Add the commands that append and announce one numbered event (three replies)."""
    body = encode(event)
    stream = keys.run_events(event.run_id)
    pipeline.xadd(stream, {"e": body}, id=f"{event.seq}-0", maxlen=keys.RUN_EVENTS_MAX, approximate=True)
    pipeline.publish(keys.run_channel(event.run_id), body)
    pipeline.expire(stream, keys.RUN_EVENTS_TTL_S)


def append(client: redis.Redis, events: Iterable[Event]) -> None:
    """Append and announce events of any runs. Raises Fenced; redis.RedisError when the broker does not answer."""
    pipeline = client.pipeline(transaction=False)
    for event in events:
        queue_append(pipeline, event)
    for reply in pipeline.execute(raise_on_error=False):
        if isinstance(reply, redis.ResponseError) and "equal or smaller" in str(reply):
            raise Fenced(str(reply))
        if isinstance(reply, Exception):
            raise reply


def read(client: redis.Redis, run_id: str, after_seq: int = 0) -> list[RunEvent]:
    """The stored events of a run after that number, oldest first, at most REPLAY_MAX."""
    entries: Any = client.xrange(keys.run_events(run_id), min=f"({after_seq}-0", max="+", count=REPLAY_MAX)
    return [decode(fields[b"e"]) for _, fields in entries]


def last_seq(client: redis.Redis, run_id: str) -> int:
    """Number of a run's last stored event, 0 where there is none."""
    entries: Any = client.xrevrange(keys.run_events(run_id), count=1)
    return int(entries[0][0].split(b"-")[0]) if entries else 0


def queue_length(pipeline: redis.client.Pipeline, run_id: str) -> None:
    """Add the command that counts a run's stored events (one reply)."""
    pipeline.xlen(keys.run_events(run_id))
