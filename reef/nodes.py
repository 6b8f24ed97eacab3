"""What the workers say that are alive. Reads their reports; writes none."""

from __future__ import annotations

import time

import msgspec
import redis

from reef import keys
from reef.contracts.nodes import NodeReport, decode_report

Reports = dict[str, NodeReport]
"""What the live workers say, by node."""


def read_reports(client: redis.Redis) -> Reports:
    """Reports of the workers that are alive, by node. Raises redis.RedisError and OSError."""
    raw: dict[bytes, bytes] = client.hgetall(keys.NODES)  # type: ignore[assignment]
    reports: Reports = {}
    for value in raw.values():
        try:
            report = decode_report(value)
        except msgspec.DecodeError:
            continue  # a worker of another version
        if time.time() - report.at < keys.NODE_TTL_S:
            reports[report.node] = report
    return reports
