"""Every Prometheus metric of the product, declared here; making one of another name is an error.

Labels are bounded sets (pool, node, state, route …), never a user, a session or a run. A worker keeps its own registry
and sends it as text in its heartbeat; the front door merges all of them and the gateway's into one page.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from reef.contracts.nodes import NodeReport
from reef.ports import ReplyMeasures

Kind = Literal["counter", "gauge", "histogram"]

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)
"""Bucket bounds of times."""


class UnregisteredMetric(KeyError):
    """Somebody asked for a metric that is not declared in METRICS."""


class Declared(msgspec.Struct, frozen=True):
    """A metric as declared."""

    kind: Kind
    help: str
    labels: tuple[str, ...] = ()


NODE = ("node", "pool")
PROCESS = ("process",)
"""Of the front door: web or gateway."""

METRICS: dict[str, Declared] = {
    # front door
    "coralreef_http_requests_total": Declared("counter", "Requests answered.", ("route", "method", "status")),
    "coralreef_http_request_seconds": Declared("histogram", "Time to answer a request.", ("route",)),
    "coralreef_websocket_connections": Declared("gauge", "Open WebSockets by the process that holds them.", PROCESS),
    "coralreef_event_streams": Declared("gauge", "Requests that stream a run's events or wait for its end.", PROCESS),
    "coralreef_event_rereads_total": Declared(
        "counter", "Times a client was told from the stream or the ledger, not as it happened.", ("reason", *PROCESS)
    ),
    "coralreef_turns_total": Declared("counter", "Turns by how the front door answered.", ("outcome", *PROCESS)),
    "coralreef_handovers_total": Declared(
        "counter", "WebSockets by whether the gateway took them, or why it did not.", ("outcome",)
    ),
    "coralreef_gateway_up": Declared("gauge", "1 where the gateway answers; missing where none is wanted."),
    "coralreef_gateway_adoptions_total": Declared(
        "counter", "Sockets that came to the gateway, by what became of them.", ("outcome",)
    ),
    "coralreef_gateway_messages_total": Declared("counter", "Messages of the gateway's WebSockets.", ("direction",)),
    "coralreef_gateway_messages_dropped_total": Declared(
        "counter", "Messages that the gateway threw away, because their client read too slowly or was gone."
    ),
    "coralreef_grpc_calls_total": Declared("counter", "gRPC calls by how they ended.", ("method", "code")),
    # ledger and devices, read when scraped
    "coralreef_jobs": Declared("gauge", "Jobs in the ledger by state.", ("state",)),
    "coralreef_pool_jobs": Declared("gauge", "Waiting and running jobs of a pool.", ("pool", "state")),
    "coralreef_node_up": Declared("gauge", "1 for a worker that is ready.", ("node", "pool")),
    "coralreef_node_running": Declared("gauge", "Jobs a worker runs now.", ("node", "pool")),
    "coralreef_node_info": Declared(
        "gauge",
        "1; the labels say what a worker serves with.",
        (*NODE, "device", "kind", "host", "engine", "model", "tier"),
    ),
    "coralreef_node_streams": Declared("gauge", "Jobs a worker can run at once; 0 while it serves nothing.", NODE),
    "coralreef_node_loading": Declared("gauge", "1 while a worker loads a model.", NODE),
    "coralreef_node_failed": Declared("gauge", "1 for a worker that says its device cannot serve.", NODE),
    "coralreef_node_fallback": Declared(
        "gauge", "1 while the CPU does the work of a device that does not serve.", NODE
    ),
    "coralreef_node_tokens_per_second": Declared("gauge", "Tokens of all streams over the last seconds.", NODE),
    "coralreef_node_inferences_per_second": Declared("gauge", "Inferences over the last seconds.", NODE),
    "coralreef_node_last_fault_timestamp_seconds": Declared("gauge", "When a device failed last; Unix time.", NODE),
    "coralreef_node_temperature_celsius": Declared("gauge", "Where the hardware tells.", NODE),
    "coralreef_node_temperature_limit_celsius": Declared("gauge", "Where a device begins to slow down.", NODE),
    "coralreef_node_throttled": Declared("gauge", "1 while a device runs slower to stay cool.", NODE),
    "coralreef_node_resets": Declared("gauge", "Resets that a device's driver has counted.", NODE),
    "coralreef_node_memory_used_bytes": Declared("gauge", "Memory of a device in use.", NODE),
    "coralreef_node_memory_bytes": Declared("gauge", "Memory of a device.", NODE),
    "coralreef_node_place_behind": Declared("gauge", "1 while a worker has not carried out the last decision.", NODE),
    "coralreef_placement_decisions_total": Declared("counter", "Decisions about what a device serves.", ("node",)),
    "coralreef_device_failures": Declared("gauge", "Failures of a device in a row.", ("host", "device")),
    "coralreef_device_quarantined": Declared(
        "gauge", "1 while a device is left alone after failures.", ("host", "device")
    ),
    "coralreef_pool_devices": Declared("gauge", "Devices that queues.yaml gives a pool.", ("pool",)),
    "coralreef_pool_waiting_max": Declared("gauge", "Jobs that may wait for a pool.", ("pool",)),
    "coralreef_pool_oldest_seconds": Declared(
        "gauge", "Age of the oldest job that is due and waits; 0: none.", ("pool",)
    ),
    "coralreef_pool_ended_jobs": Declared("gauge", "Jobs of the last month by how they ended.", ("pool", "state")),
    "coralreef_model_cache_bytes": Declared("gauge", "Model files on disk.", ("format",)),
    "coralreef_models": Declared("gauge", "Known models: cached, absent or failed.", ("state",)),
    "coralreef_documents": Declared("gauge", "Documents by state.", ("state",)),
    "coralreef_uploads": Declared("gauge", "Uploads by state.", ("state",)),
    # workers
    "coralreef_replies_total": Declared("counter", "Replies by how they ended.", ("node", "pool", "outcome")),
    "coralreef_prompt_tokens_total": Declared("counter", "Prompt tokens processed.", ("node", "pool")),
    "coralreef_completion_tokens_total": Declared("counter", "Tokens generated.", ("node", "pool")),
    "coralreef_queue_seconds": Declared("histogram", "Time a job waited for its worker.", ("node", "pool")),
    "coralreef_time_to_first_token_seconds": Declared(
        "histogram", "From the worker's claim to the first token.", ("node", "pool")
    ),
    "coralreef_files_total": Declared(
        "counter", "Files that a stage took to its end, by how.", ("node", "pool", "stage", "outcome")
    ),
    "coralreef_search_seconds": Declared("histogram", "Time to find the passages of a question.", ("node", "pool")),
    "coralreef_inferences_total": Declared("counter", "Inputs that a model was run over.", ("node", "pool")),
    "coralreef_inference_seconds": Declared(
        "histogram", "Time of one input on its device, averaged over its job.", ("node", "pool")
    ),
    "coralreef_reply_seconds": Declared("histogram", "From the worker's claim to the end.", ("node", "pool")),
    "coralreef_model_load_seconds": Declared("histogram", "Time to make a model ready.", NODE),
    "coralreef_model_swaps_total": Declared("counter", "Times another model began to serve.", NODE),
    "coralreef_device_faults_total": Declared("counter", "Failures of a device.", NODE),
}


def _declared(name: str, kind: Kind) -> Declared:
    found = METRICS.get(name)
    if found is None or found.kind != kind:
        raise UnregisteredMetric(f"{name} is not declared as a {kind} in reef/metrics.py")
    return found


def counter(name: str, registry: CollectorRegistry) -> Counter:
    """The declared counter. Raises UnregisteredMetric."""
    declared = _declared(name, "counter")
    return Counter(name, declared.help, declared.labels, registry=registry)


def gauge(name: str, registry: CollectorRegistry) -> Gauge:
    """The declared gauge. Raises UnregisteredMetric."""
    declared = _declared(name, "gauge")
    return Gauge(name, declared.help, declared.labels, registry=registry)


def histogram(name: str, registry: CollectorRegistry) -> Histogram:
    """The declared histogram. Raises UnregisteredMetric."""
    declared = _declared(name, "histogram")
    return Histogram(name, declared.help, declared.labels, registry=registry, buckets=SECONDS)


class WorkerMetrics:
    """What one worker counts."""

    def __init__(self, node: str, pool: str) -> None:
        self.registry = CollectorRegistry()
        self._labels = {"node": node, "pool": pool}
        self._replies = counter("coralreef_replies_total", self.registry)
        self._prompt = counter("coralreef_prompt_tokens_total", self.registry)
        self._completion = counter("coralreef_completion_tokens_total", self.registry)
        self._queue = histogram("coralreef_queue_seconds", self.registry)
        self._first = histogram("coralreef_time_to_first_token_seconds", self.registry)
        self._reply = histogram("coralreef_reply_seconds", self.registry)
        self._files = counter("coralreef_files_total", self.registry)
        self._search = histogram("coralreef_search_seconds", self.registry)
        self._inferences = counter("coralreef_inferences_total", self.registry)
        self._inference = histogram("coralreef_inference_seconds", self.registry)

    def of_pool(self, pool: str) -> WorkerMetrics:
        """The same counters for what it does in another pool."""
        other = copy.copy(self)
        other._labels = self._labels | {"pool": pool}
        return other

    def observe(self, measures: ReplyMeasures) -> None:
        """Count a reply that ended."""
        self._replies.labels(outcome=measures.outcome, **self._labels).inc()
        self._prompt.labels(**self._labels).inc(measures.prompt_tokens)
        self._completion.labels(**self._labels).inc(measures.completion_tokens)
        self._queue.labels(**self._labels).observe(measures.queue_s)
        self._reply.labels(**self._labels).observe(measures.total_s)
        if measures.first_token_s is not None:
            self._first.labels(**self._labels).observe(measures.first_token_s)

    def count_files(self, stage: str, outcome: str, files: int) -> None:
        """Count files that a stage took to its end."""
        self._files.labels(stage=stage, outcome=outcome, **self._labels).inc(files)

    def observe_search(self, seconds: float) -> None:
        """Count a search."""
        self._search.labels(**self._labels).observe(seconds)

    def observe_inference(self, inputs: int, seconds: float) -> None:
        """Count the inputs of a job."""
        self._inferences.labels(**self._labels).inc(inputs)
        self._inference.labels(**self._labels).observe(seconds / max(inputs, 1))

    def text(self) -> str:
        """All of it in Prometheus text format."""
        return generate_latest(self.registry).decode()


class DeviceMetrics:
    """What is counted of a device by comparing each report of its worker with the one before."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.registry = CollectorRegistry()
        self._load = histogram("coralreef_model_load_seconds", self.registry)
        self._swaps = counter("coralreef_model_swaps_total", self.registry)
        self._faults = counter("coralreef_device_faults_total", self.registry)
        self._clock = clock
        self._before: NodeReport | None = None
        self._loading_since: float | None = None

    def saw(self, report: NodeReport) -> None:
        """The worker reports this now."""
        before, self._before = self._before, report
        labels = (report.node, report.pool)
        for every in (self._swaps, self._faults):
            every.labels(*labels)  # from zero on: an increase can only be seen of what was there before
        if before is not None and before.model and report.model not in ("", before.model):
            self._swaps.labels(*labels).inc()
        if report.last_fault_at > (before.last_fault_at if before is not None else 0.0):
            self._faults.labels(*labels).inc()
        loads = bool(report.loading) or report.state == "loading"
        if loads and self._loading_since is None:
            self._loading_since = self._clock()
        elif not loads and self._loading_since is not None:
            self._load.labels(*labels).observe(self._clock() - self._loading_since)
            self._loading_since = None

    def text(self) -> str:
        """All of it in Prometheus text format."""
        return generate_latest(self.registry).decode()


class Texts(Collector):
    """Merges the texts of several processes into one set of metric families."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._texts = list(texts)

    def collect(self) -> Iterator[Metric]:
        """One family per name, with the samples of every process."""
        families: dict[str, Metric] = {}
        for text in self._texts:
            for family in text_string_to_metric_families(text):
                families.setdefault(
                    family.name, Metric(family.name, family.documentation, family.type)
                ).samples += family.samples
        yield from families.values()
