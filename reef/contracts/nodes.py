"""What a worker process says about itself, about once a second."""

from __future__ import annotations

from typing import Literal

import msgspec

NodeState = Literal["loading", "ready", "draining", "failed"]


class NodeReport(msgspec.Struct, frozen=True, kw_only=True):
    """One worker's state. `at` is Unix seconds; a report older than keys.NODE_TTL_S means the worker is gone."""

    node: str
    pool: str
    device: str
    kind: str
    host: str
    pid: int
    at: float
    state: NodeState
    engine: str = ""
    model: str = ""
    progress: float = 0.0
    """Share of the model that is loaded, 0..1."""
    note: str = ""
    """A sentence for a person: what is being done, or what went wrong."""
    running: int = 0
    streams: int = 1
    simulated: bool = False
    metrics: str = ""
    """The worker's own metrics in Prometheus text format."""


_decoder: msgspec.json.Decoder[NodeReport] = msgspec.json.Decoder(NodeReport)


def decode_report(raw: bytes) -> NodeReport:
    """Read a report. Raises msgspec.ValidationError."""
    return _decoder.decode(raw)
