"""Traces of runs, sent by OpenTelemetry where REEF_OTLP_URL (or OTEL_EXPORTER_OTLP_ENDPOINT) names a collector.

Nothing is carried from process to process: a run's id is its trace's id, and the ids of the spans that others are
children of follow from it (docs/decisions/0018). Spans are told when their part is over, with the times that were
measured anyway. Without a collector nothing of OpenTelemetry is imported. No text of a conversation is ever in a span.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from reef.ledger.model import Claim, JobRecord
from reef.ports import ReplyMeasures
from reef.settings import Settings

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan
    from opentelemetry.sdk.trace.export import SpanExporter

log = logging.getLogger(__name__)

TRACES_PATH = "/v1/traces"
WAITING_SPANS_MAX = 4096
"""Spans that wait to be sent; more are dropped: a collector that is away costs nothing else."""
SEND_EVERY_MS = 1000
SEND_TIMEOUT_S = 2.0
ID_DIGITS = 32
ROOT = "accept"


def open_spans(settings: Settings, part: str) -> Spans | None:
    """The way to the collector for one process (`part`: web or worker); None where there is none."""
    return Spans(settings, part) if settings.otlp_url else None


def trace_id(run_id: str) -> int:
    """The trace of a run: its id, or a digest of one that is no 128-bit number."""
    if len(run_id) == ID_DIGITS and set(run_id) <= set("0123456789abcdef") and int(run_id, 16):
        return int(run_id, 16)
    return int.from_bytes(hashlib.blake2b(run_id.encode(), digest_size=16).digest(), "big") or 1


def span_id(run_id: str, name: str) -> int:
    """A span of a run that others name as their parent."""
    return int.from_bytes(hashlib.blake2b(f"{run_id} {name}".encode(), digest_size=8).digest(), "big") or 1


def _attempt(claim: Claim) -> str:
    return f"attempt {claim.job.id} {claim.token}"


class _Told(msgspec.Struct, frozen=True, kw_only=True):
    """A span, its times in Unix seconds. `own` 0: any id; `parent` 0: it is the root."""

    run_id: str
    name: str
    began_at: float
    ended_at: float
    parent: int = 0
    own: int = 0
    kind: Literal["front", "worker", ""] = ""
    attributes: dict[str, str | int] = {}
    error: str = ""


class Spans:
    """Tells spans. Safe to share between threads and greenlets; never blocks and never raises for the collector."""

    def __init__(self, settings: Settings, part: str) -> None:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        self._ids = _chosen_ids()
        resource = Resource.create({"service.name": f"coral-reef-{part}", "service.instance.id": settings.node or part})
        self._provider = TracerProvider(resource=resource, id_generator=self._ids, shutdown_on_exit=False)
        self._provider.add_span_processor(
            BatchSpanProcessor(
                _quiet_exporter(settings.otlp_url),
                max_queue_size=WAITING_SPANS_MAX,
                schedule_delay_millis=SEND_EVERY_MS,
                export_timeout_millis=int(SEND_TIMEOUT_S * 1000),
            )
        )
        self._tracer = self._provider.get_tracer("coral-reef")

    def accepted(self, record: JobRecord, began_at: float) -> None:
        """The front door accepted a run: the root of its trace."""
        self._tell(
            _Told(
                run_id=record.id,
                name=ROOT,
                began_at=began_at,
                ended_at=time.time(),
                own=span_id(record.id, ROOT),
                kind="front",
                attributes={"reef.task": record.task, "reef.pool": record.pool, "reef.route": record.route or ""},
            )
        )

    def attempted(self, claim: Claim, run_id: str, error: str = "") -> None:
        """A worker is through with a claim of a job that belongs to this run; it waited for it before."""
        job, root = claim.job, span_id(run_id, ROOT)
        ended_at = time.time()
        started_at = job.started_at or ended_at
        attributes: dict[str, str | int] = {"reef.pool": job.pool, "reef.attempt": job.attempts}
        if job.attempts <= 1:
            waited_from = min(max(job.created_at, job.not_before), started_at)
            self._tell(
                _Told(
                    run_id=run_id,
                    name="queue",
                    began_at=waited_from,
                    ended_at=started_at,
                    parent=root,
                    attributes=attributes,
                )
            )
        self._tell(
            _Told(
                run_id=run_id,
                name=job.task.rpartition(".")[2],
                began_at=started_at,
                ended_at=ended_at,
                parent=root,
                own=span_id(run_id, _attempt(claim)),
                kind="worker",
                attributes=attributes | {"reef.task": job.task, "reef.node": claim.owner},
                error=error,
            )
        )

    def replied(self, claim: Claim, measures: ReplyMeasures) -> None:
        """What a reply's time was spent on; its attempt is told when it is over."""
        run_id, ended_at = claim.job.id, time.time()
        began_at = ended_at - measures.total_s
        asked_at = began_at + (measures.prompt_s or 0.0)
        first_at = asked_at if measures.first_token_s is None else began_at + measures.first_token_s
        read = {"reef.prompt_tokens": measures.prompt_tokens}
        written = {"reef.completion_tokens": measures.completion_tokens, "reef.outcome": measures.outcome}
        parts: list[tuple[str, float, float, dict[str, str | int]]] = [
            ("prompt", began_at, asked_at, {**read}),
            ("first token", asked_at, first_at, {}),
            ("write", first_at, ended_at, {**written}),
        ]
        for name, since, until, attributes in parts:
            parent = span_id(run_id, _attempt(claim))
            self._tell(
                _Told(run_id=run_id, name=name, began_at=since, ended_at=until, parent=parent, attributes=attributes)
            )

    def close(self) -> None:
        """Send what waits, for a short time at most."""
        ending = threading.Thread(target=self._provider.shutdown, name="spans", daemon=True)
        ending.start()
        ending.join(SEND_TIMEOUT_S)

    def _tell(self, span: _Told) -> None:
        from opentelemetry.trace import SpanKind, Status, StatusCode

        trace = trace_id(span.run_id)
        kinds = {"front": SpanKind.SERVER, "worker": SpanKind.CONSUMER, "": SpanKind.INTERNAL}
        with self._ids.choose(trace, span.own):
            started = self._tracer.start_span(
                span.name,
                _remote(trace, span.parent) if span.parent else None,
                kinds[span.kind],
                attributes={"reef.run": span.run_id, **span.attributes},
                start_time=_ns(span.began_at),
            )
        if span.error:
            started.set_status(Status(StatusCode.ERROR, span.error))
        started.end(_ns(max(span.began_at, span.ended_at)))


def _ns(at: float) -> int:
    return int(at * 1_000_000_000)


def _remote(trace: int, parent: int) -> Context:
    from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

    known = SpanContext(trace, parent, is_remote=True, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return set_span_in_context(NonRecordingSpan(known))


def _chosen_ids() -> Any:
    """An id generator that gives the ids it was told to, in the thread that told it."""
    from contextlib import contextmanager

    from opentelemetry.sdk.trace.id_generator import RandomIdGenerator

    class ChosenIds(RandomIdGenerator):
        def __init__(self) -> None:
            self._wanted = threading.local()

        @contextmanager
        def choose(self, trace: int, span: int) -> Any:
            self._wanted.trace, self._wanted.span = trace, span
            try:
                yield
            finally:
                self._wanted.trace = self._wanted.span = 0

        def generate_trace_id(self) -> int:
            return getattr(self._wanted, "trace", 0) or super().generate_trace_id()

        def generate_span_id(self) -> int:
            return getattr(self._wanted, "span", 0) or super().generate_span_id()

    return ChosenIds()


def _quiet_exporter(url: str) -> SpanExporter:
    """Sends by HTTP; says once that the collector is away, not once a second."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

    base = url.rstrip("/")
    endpoint = base if base.endswith(TRACES_PATH) else base + TRACES_PATH
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)

    class Quiet(SpanExporter):
        def __init__(self) -> None:
            self._inner = OTLPSpanExporter(endpoint, timeout=SEND_TIMEOUT_S)
            self._away = False

        def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
            result = self._inner.export(spans)
            away = result is not SpanExportResult.SUCCESS
            if away and not self._away:
                log.warning("traces are dropped: the collector of REEF_OTLP_URL does not take them")
            self._away = away
            return result

        def shutdown(self) -> None:
            self._inner.shutdown()  # type: ignore[no-untyped-call]

    return Quiet()
