"""Why jobs of a pool wait though their turn has come: no device of it answers. Reads the workers' reports only."""

from __future__ import annotations

import time
from collections.abc import Sequence

import redis

from reef import keys
from reef.contracts.nodes import NodeReport
from reef.nodes import every_report

NOBODY = "No device answers right now; the reply goes on as soon as one is back."
BROKER_AWAY = "The queue's server does not answer right now; nothing that was accepted is lost."
STARTING = "The device is starting."


def why_waiting(client: redis.Redis, pool: str) -> str:
    """A sentence for the person who waits; empty while a device of the pool serves (then it is busy, no more)."""
    try:
        reports = every_report(client)
    except (redis.RedisError, OSError):
        return BROKER_AWAY
    return sentence([report for report in reports.values() if report.pool == pool], time.time())


def sentence(reports: Sequence[NodeReport], now: float) -> str:
    """The same, from the reports of the pool's workers."""
    fresh = [report for report in reports if now - report.at < keys.NODE_TTL_S]
    if any(report.state in ("ready", "draining") for report in fresh):
        return ""
    for report in fresh:
        if report.state == "loading":
            share = f" ({report.progress:.0%})" if report.progress else ""
            return f"{STARTING[:-1]}{share}: {report.note}" if report.note else f"{STARTING[:-1]}{share}."
    silent = max(reports, key=lambda report: report.at, default=None)
    if silent is None:
        return NOBODY
    if silent in fresh:
        return f"{NOBODY} {silent.node} failed: {silent.note}"
    return f"{NOBODY} {silent.node} was last heard of {now - silent.at:.0f} s ago."
