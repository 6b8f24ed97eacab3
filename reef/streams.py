"""The event log of a run in Redis: numbered, capped, replayable, and closed to workers that lost their claim.

An event's number is `token * NUMBERS_PER_CLAIM + n`, where token is the claim's fencing token (0 before the first
claim). It is also the id of its stream entry, and Redis refuses an id that is not above the last one: once the next
claim has written, the worker before it can append nothing. Readers keep the highest number they saw and drop the rest,
which fences the live channel too.

An upload has many writers at once and nothing to fence: its events are numbered by Redis as they arrive, and a client
that missed some begins with what the records say.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import redis

from reef import keys
from reef.contracts.events import DocumentChanged, Event, RunEvent, UploadEvent, decode, decode_upload, encode

NUMBERS_PER_CLAIM = 1_000_000
"""More events than one attempt of a run can have."""
REPLAY_MAX = 500
"""Events of a run read at once when a client catches up: what is held for one that reads slowly."""
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


# --- uploads

NUMBERS_PER_MS = 1000
"""An upload's event is numbered by the millisecond it came in and its place in it."""
_APPEND_UPLOAD = """
if ARGV[5] ~= '' then
  local last = redis.call('HMGET', KEYS[2], ARGV[5], ARGV[5] .. ':state')
  local at, last_at = tonumber(ARGV[6]), tonumber(last[1] or '0')
  if last_at > at or (last_at == at and last[2] == ARGV[7]) then return false end
  redis.call('HSET', KEYS[2], ARGV[5], ARGV[6], ARGV[5] .. ':state', ARGV[7])
  redis.call('EXPIRE', KEYS[2], ARGV[3])
end
local id = redis.call('XADD', KEYS[1], 'MAXLEN', '~', ARGV[2], '*', 'e', ARGV[1])
redis.call('EXPIRE', KEYS[1], ARGV[3])
redis.call('PUBLISH', ARGV[4], id .. ' ' .. ARGV[1])
return id
"""


def queue_upload_event(pipeline: redis.client.Pipeline, upload_id: str, event: UploadEvent) -> None:
    """Add the command that appends and announces an event of an upload (one reply)."""
    limits = (str(keys.UPLOAD_EVENTS_MAX), str(keys.UPLOAD_EVENTS_TTL_S))
    names = (keys.upload_events(upload_id), keys.upload_at(upload_id))
    # two processes may tell of one document in the wrong order, or the same; the older word is then left out
    document = ("", "", "")
    if isinstance(event, DocumentChanged):
        document = (event.document_id, repr(event.at), event.state)
    body, channel = encode(event).decode(), keys.upload_channel(upload_id)
    pipeline.eval(_APPEND_UPLOAD, 2, *names, body, *limits, channel, *document)


def heard_upload_event(announced: bytes) -> UploadEvent:
    """What an upload's channel announced. Raises msgspec.DecodeError and ValueError."""
    entry, _, body = announced.partition(b" ")
    return msgspec.structs.replace(decode_upload(body), seq=_upload_number(entry))


def read_upload(client: redis.Redis, upload_id: str, after_seq: int) -> list[UploadEvent]:
    """The stored events of an upload after that number, oldest first."""
    milliseconds, n = divmod(after_seq, NUMBERS_PER_MS)
    after, most = f"({milliseconds}-{n}", keys.UPLOAD_EVENTS_MAX
    entries: Any = client.xrange(keys.upload_events(upload_id), min=after, max="+", count=most)
    stored = ((decode_upload(fields[b"e"]), _upload_number(entry)) for entry, fields in entries)
    return [msgspec.structs.replace(event, seq=seq) for event, seq in stored]


def _upload_number(entry: bytes) -> int:
    milliseconds, _, n = entry.partition(b"-")
    return int(milliseconds) * NUMBERS_PER_MS + min(int(n), NUMBERS_PER_MS - 1)
