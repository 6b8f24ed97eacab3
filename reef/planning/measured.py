"""This machine's own figures: how its chat devices served, worked out from the replies in the ledger. Reads only.

A row says when a reply was started, when its first word came, when it ended and how long it is. From rows that overlap
on one device follows how a step grows with conversations, which is what a plan needs.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from itertools import groupby

import msgspec
import sqlalchemy as sa

from reef.planning.curves import Batching
from reef.planning.devices import REFERENCE_STEP_FIXED_S, REFERENCE_STEP_STREAM_S
from reef.records.database import Database
from reef.records.tables import jobs

REPLIES_MAX = 2_000
"""The newest that are looked at."""
REPLIES_MIN = 8
"""Fewer say nothing."""
TOKENS_MIN = 8
"""Shorter replies are all first word."""
SPREAD_MIN = 0.25
"""Conversations at once must have differed by so much (variance) before their effect is believed."""
STEP_MIN_S = 1e-5


class Reply(msgspec.Struct, frozen=True, kw_only=True):
    """One reply as it was written. Times are Unix seconds."""

    node: str
    started: float
    first: float
    ended: float
    prompt: int
    tokens: int


class TooFew(ValueError):
    """Not enough has been written here to plan with."""


class _Usage(msgspec.Struct, frozen=True):
    prompt: int
    completion: int


class _Metrics(msgspec.Struct, frozen=True):
    first_token_s: float | None = None


class _Result(msgspec.Struct, frozen=True):
    usage: _Usage
    metrics: _Metrics = _Metrics()


def recent_replies(database: Database, pool: str = "chat") -> list[Reply]:
    """The newest whole replies of a pool, in any order."""
    columns = (jobs.c.owner, jobs.c.started_at, jobs.c.finished_at, jobs.c.result)
    query = (
        sa.select(*columns)
        .where(jobs.c.pool == pool, jobs.c.state == "done", jobs.c.attempts == 1, jobs.c.result.is_not(None))
        .where(jobs.c.owner.not_like("%simulated%"))  # those played a device at a pace that somebody chose
        .order_by(jobs.c.created_at.desc())
        .limit(REPLIES_MAX)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    replies = []
    for owner, started, ended, result in rows:
        try:
            told = msgspec.json.decode(result, type=_Result)
        except msgspec.ValidationError:
            continue  # the result of another kind of job
        if told.metrics.first_token_s is not None and told.usage.completion >= TOKENS_MIN:
            first = started + told.metrics.first_token_s
            if started < first < ended:
                replies.append(
                    Reply(
                        node=owner or "",
                        started=started,
                        first=first,
                        ended=ended,
                        prompt=told.usage.prompt,
                        tokens=told.usage.completion,
                    )
                )
    return replies


def fit(replies: Sequence[Reply], streams: int) -> Batching:
    """The curve of one device that explains these replies best. Raises TooFew."""
    if len(replies) < REPLIES_MIN:
        raise TooFew(
            f"The ledger has {len(replies)} whole replies of {TOKENS_MIN} tokens or more; a plan needs {REPLIES_MIN}."
        )
    steps, prompts = [], []
    for _, group in groupby(sorted(replies, key=lambda one: one.node), key=lambda one: one.node):
        device = list(group)
        for reply in device:
            beside = [other for other in device if other.started < reply.ended and other.ended > reply.started]
            steps.append(_step(reply, beside))
            read = [other for other in beside if other.started < reply.first and other.first > reply.started]
            prompts.append((float(sum(other.prompt for other in read)), reply.first - reply.started))
    fixed_s, stream_s = _line(steps, REFERENCE_STEP_STREAM_S / REFERENCE_STEP_FIXED_S)
    prompt_fixed_s, prompt_token_s = _line(_medians(prompts), 0.0)
    return Batching(
        step_fixed_s=max(STEP_MIN_S, fixed_s),
        step_stream_s=stream_s,
        prompt_fixed_s=prompt_fixed_s,
        prompt_token_s=prompt_token_s,
        streams=streams,
    )


def _step(reply: Reply, beside: Sequence[Reply]) -> tuple[float, float, float]:
    """Conversations at once while this reply was written, time of one step, and how much that says."""
    reading = sorted((max(o.started, reply.first), min(o.first, reply.ended)) for o in beside if o is not reply)
    stalled, upto = 0.0, reply.first
    for begin, end in reading:
        if end > max(begin, upto):
            stalled += end - max(begin, upto)
            upto = end
    whole = reply.ended - reply.first
    writing = max(whole - stalled, whole / 10)
    together = sum(max(0.0, min(o.ended, reply.ended) - max(o.first, reply.first)) for o in beside)
    return together / whole, writing / (reply.tokens - 1), float(reply.tokens)


def _medians(points: Sequence[tuple[float, float]]) -> list[tuple[float, float, float]]:
    """The middle of the points of each doubling of x, all alike in weight.

    Which prompts were read together is known roughly only, and most points may lie close together: both would make the
    line too flat.
    """
    buckets: dict[int, list[tuple[float, float]]] = {}
    for x, y in points:
        buckets.setdefault(int(x).bit_length(), []).append((x, y))
    return [
        (statistics.median(x for x, _ in bucket), statistics.median(y for _, y in bucket), 1.0)
        for bucket in buckets.values()
    ]


def _line(points: Sequence[tuple[float, float, float]], share: float) -> tuple[float, float]:
    """Weighted least squares y = a + b x, both not negative; b is `share` of a where the points cannot tell."""
    weight = sum(w for _, _, w in points)
    mean_x = sum(w * x for x, _, w in points) / weight
    mean_y = sum(w * y for _, y, w in points) / weight
    variance = sum(w * (x - mean_x) ** 2 for x, _, w in points) / weight
    if variance < SPREAD_MIN:
        a = mean_y / (1 + share * mean_x)
        return a, share * a
    slope = sum(w * (x - mean_x) * (y - mean_y) for x, y, w in points) / weight / variance
    slope = min(max(slope, 0.0), mean_y / mean_x)
    return mean_y - slope * mean_x, slope
