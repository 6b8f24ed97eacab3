"""The last hour: a sample each keys.HISTORY_STEP_S, in a capped stream that outlives every web process.

Several sweepers may sample. The entry's id is the step it belongs to, by Redis' own clock, and Redis refuses an id that
is not above the last one: of each step the first sample stays, without any lock.
"""

from __future__ import annotations

import logging
import time
from typing import Any

import msgspec
import redis

from reef import keys
from reef.contracts.system import PoolSample, PoolStatus, Sample
from reef.nodes import read_reports
from reef.observing.overview import DOWN, Overview, Seen

log = logging.getLogger(__name__)

_decoder: msgspec.json.Decoder[Sample] = msgspec.json.Decoder(Sample)
_STEP_MS = int(keys.HISTORY_STEP_S * 1000)


def sample(seen: Seen, at: float) -> Sample:
    """This look as one sample."""
    return Sample(at=at, pools={pool.name: _of(pool) for pool in seen.pools})


def _of(pool: PoolStatus) -> PoolSample:
    serving = [device for device in pool.devices if device.state not in DOWN]
    return PoolSample(
        queued=pool.waiting,
        running=pool.running,
        wait_s=pool.wait_s,
        devices=len(serving),
        busy=sum(device.running > 0 for device in serving),
        tokens_per_s=round(sum(device.tokens_per_s for device in serving), 1),
        inferences_per_s=round(sum(device.inferences_per_s for device in serving), 1),
    )


def append(client: redis.Redis, taken: Sample) -> bool:
    """Keep this sample; False where its step has one already. Raises redis.RedisError."""
    step = int(taken.at * 1000) // _STEP_MS * _STEP_MS
    body = msgspec.json.encode(taken)
    try:
        client.xadd(keys.HISTORY, {"s": body}, id=f"{step}-0", maxlen=keys.HISTORY_MAX, approximate=False)
    except redis.ResponseError as error:
        if "equal or smaller" not in str(error):
            raise
        return False
    return True


def read(client: redis.Redis, after: float = 0.0) -> list[Sample]:
    """Samples of the last hour that were taken after this time, oldest first. Raises redis.RedisError."""
    now = _clock(client)
    oldest = max(after, now - keys.HISTORY_MAX * keys.HISTORY_STEP_S)
    entries: Any = client.xrange(keys.HISTORY, min=f"{int(oldest * 1000) // _STEP_MS * _STEP_MS}-0")
    samples = [_decoder.decode(fields[b"s"]) for _, fields in entries]
    return [taken for taken in samples if taken.at > after]


def _clock(client: redis.Redis) -> float:
    answer: Any = client.time()
    seconds, microseconds = answer
    return float(seconds) + float(microseconds) / 1e6


class Recorder:
    """Takes the samples of one process."""

    def __init__(self, overview: Overview, client: redis.Redis) -> None:
        self._overview, self._client = overview, client
        self._due = 0.0

    def look(self) -> bool:
        """Take a sample where one is due. Raises redis.RedisError and sqlalchemy.exc.SQLAlchemyError."""
        if time.monotonic() < self._due:
            return False
        at = _clock(self._client)
        self._due = time.monotonic() + keys.HISTORY_STEP_S - at % keys.HISTORY_STEP_S
        return append(self._client, sample(self._overview.look(read_reports(self._client)), at))
