"""What the gateway tells of itself: its report to the web process, in which its metrics travel."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from prometheus_client.core import CounterMetricFamily, Metric
from prometheus_client.registry import Collector

from app.counts import WebCounts
from reef.contracts.handover import Report
from reef.metrics import METRICS

if TYPE_CHECKING:
    from websocket_fabric.metrics import Counts

MESSAGES = "coralreef_gateway_messages_total"
DROPPED = "coralreef_gateway_messages_dropped_total"


class Numbers:
    """Reads what the server counts in plain numbers when somebody asks."""

    def __init__(self, counts: WebCounts, of_server: Counts) -> None:
        self._counts = counts
        counts.registry.register(_OfServer(of_server))

    def report(self) -> Report:
        """How the gateway is now."""
        return Report(sockets_open=self._counts.sockets_open, metrics=self._counts.text())


class _OfServer(Collector):
    def __init__(self, of_server: Counts) -> None:
        self._of_server = of_server

    def collect(self) -> Iterator[Metric]:
        messages = CounterMetricFamily(MESSAGES, METRICS[MESSAGES].help, labels=METRICS[MESSAGES].labels)
        messages.add_metric(["in"], self._of_server.messages_in)
        messages.add_metric(["out"], self._of_server.messages_out)
        yield messages
        yield CounterMetricFamily(DROPPED, METRICS[DROPPED].help, value=self._of_server.messages_dropped)
