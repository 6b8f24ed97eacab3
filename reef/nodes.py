"""What the workers say of themselves, as it stands in the broker. Reads their reports; writes none."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any

import msgspec
import redis

from reef import keys
from reef.contracts.nodes import NodeReport, decode_report

Reports = dict[str, NodeReport]
"""What workers say, by node."""


def read_reports(client: redis.Redis) -> Reports:
    """Reports of the workers that are alive. Raises redis.RedisError and OSError."""
    now = time.time()
    return {node: report for node, report in every_report(client).items() if now - report.at < keys.NODE_TTL_S}


def every_report(client: redis.Redis) -> Reports:
    """The last words of those that fell silent, too. Raises redis.RedisError and OSError."""
    raw: Any = client.hvals(keys.NODES)
    return _decoded(raw)


def reports_of(client: redis.Redis, nodes: list[str]) -> Reports:
    """The last words of these workers; one that never reported is left out. Raises redis.RedisError and OSError."""
    raw: Any = client.hmget(keys.NODES, nodes)
    return _decoded(value for value in raw if value is not None)


def _decoded(raw: Iterable[bytes]) -> Reports:
    reports: Reports = {}
    for value in raw:
        try:
            report = decode_report(value)
        except msgspec.DecodeError:
            continue  # a worker of another version
        reports[report.node] = report
    return reports
