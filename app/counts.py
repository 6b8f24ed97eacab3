"""What a process of the front door counts for Prometheus. The names are declared in reef/metrics.py."""

from __future__ import annotations

from typing import Literal

from prometheus_client import CollectorRegistry, generate_latest

from reef.metrics import counter, gauge, histogram

Process = Literal["web", "gateway"]


class WebCounts:
    """Counters of one process and its registry."""

    def __init__(self, process: Process = "web") -> None:
        self._process = process
        self.registry = CollectorRegistry()
        self._requests = counter("coralreef_http_requests_total", self.registry)
        self._seconds = histogram("coralreef_http_request_seconds", self.registry)
        self._sockets = gauge("coralreef_websocket_connections", self.registry)
        self._turns = counter("coralreef_turns_total", self.registry)
        self._calls = counter("coralreef_grpc_calls_total", self.registry)
        self._streams = gauge("coralreef_event_streams", self.registry)
        self._rereads = counter("coralreef_event_rereads_total", self.registry)
        self._handovers = counter("coralreef_handovers_total", self.registry)
        self._adoptions = counter("coralreef_gateway_adoptions_total", self.registry)
        self.sockets_open = 0
        self.streams_open = 0
        self.socket(0)
        self.stream(0)

    def answered(self, route: str, method: str, status: int, seconds: float | None) -> None:
        """A request was answered, or its stream began."""
        self._requests.labels(route=route, method=method, status=str(status)).inc()
        if seconds is not None:
            self._seconds.labels(route=route).observe(seconds)

    def called(self, method: str, code: str) -> None:
        """A gRPC call ended."""
        self._calls.labels(method=method, code=code).inc()

    def turn(self, outcome: str) -> None:
        """A turn was accepted or refused."""
        self._turns.labels(outcome=outcome, process=self._process).inc()

    def reread(self, reason: str) -> None:
        """A client was told from a run's stream or from the ledger, because announcements did not do."""
        self._rereads.labels(reason=reason, process=self._process).inc()

    def stream(self, change: int) -> None:
        """A streamed or waiting request began (1) or ended (-1)."""
        self.streams_open += change
        self._streams.labels(process=self._process).set(self.streams_open)

    def socket(self, change: int) -> None:
        """A WebSocket was opened (1) or closed (-1)."""
        self.sockets_open += change
        self._sockets.labels(process=self._process).set(self.sockets_open)

    def handed_over(self, outcome: str) -> None:
        """A WebSocket went to the gateway, or why it is served here."""
        self._handovers.labels(outcome=outcome).inc()

    def adopted(self, outcome: str) -> None:
        """A WebSocket came from the web process, or why it was not taken."""
        self._adoptions.labels(outcome=outcome).inc()

    def text(self) -> str:
        """All of it in Prometheus text format."""
        return generate_latest(self.registry).decode()
