"""Workers' reports as they stand in Redis. Nothing is written here."""

from __future__ import annotations

import time
from typing import Any

import msgspec
import redis

from reef import keys
from reef.contracts.nodes import NodeReport, decode_report

Reports = dict[str, NodeReport]
"""What the live workers say, by node."""


def live_reports(client: redis.Redis) -> Reports:
    """What the workers say that are alive. Raises redis.RedisError."""
    raw: Any = client.hgetall(keys.NODES)
    reports: Reports = {}
    for value in raw.values():
        try:
            report = decode_report(value)
        except msgspec.DecodeError:
            continue  # a worker of another version
        if time.time() - report.at < keys.NODE_TTL_S:
            reports[report.node] = report
    return reports
