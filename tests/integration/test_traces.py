"""Traces from the front door through the queue to the worker, sent to a collector that the test plays."""

from __future__ import annotations

import gzip
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chat_client import ChatClient
from machines import wait_for
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from whole_product import Reef, StartReef

from reef.settings import Settings, load_settings
from reef.tracing import span_id, trace_id
from workers.broker import free_port

ROOT = Path(__file__).resolve().parents[2]


class Collector:
    """Takes OTLP over HTTP."""

    def __init__(self, port: int) -> None:
        self.spans: list[dict[str, object]] = []
        self.requests: Counter[str] = Counter()
        taken = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                taken.take(self.path, gzip.decompress(body) if self.headers.get("Content-Encoding") == "gzip" else body)
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def take(self, path: str, body: bytes) -> None:
        """One request's spans."""
        self.requests[path] += 1
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            named = {one.key: one.value.string_value for one in resource.resource.attributes}
            for scope in resource.scope_spans:
                for span in scope.spans:
                    self.spans.append(
                        {
                            "service": named["service.name"],
                            "name": span.name,
                            "trace": span.trace_id.hex(),
                            "id": span.span_id.hex(),
                            "parent": span.parent_span_id.hex(),
                            "began": span.start_time_unix_nano,
                            "ended": span.end_time_unix_nano,
                            "error": span.status.message,
                            "attributes": {one.key: one.value for one in span.attributes},
                        }
                    )

    def of(self, run_id: str) -> dict[str, dict[str, object]]:
        """A run's spans by name; the last of a name."""
        return {str(span["name"]): span for span in self.spans if span["trace"] == run_id}

    def close(self) -> None:
        """Stop listening."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)


@contextmanager
def collecting(port: int) -> Iterator[Collector]:
    """A collector that listens for a while."""
    collector = Collector(port)
    try:
        yield collector
    finally:
        collector.close()


def test_one_trace_shows_a_turn_from_the_front_door_to_its_last_word(start_reef: StartReef) -> None:
    """Web and worker tell spans of one trace with the right parents and times; a retry is a second attempt in it.

    While the collector is away nothing waits for it, and spans are all that is lost.
    """
    port = free_port()
    reef = start_reef(otlp_url=f"http://127.0.0.1:{port}")
    with ChatClient(reef.url) as chat:
        with collecting(port) as collector:
            run = chat.finish(chat.say("hello"))
            wanted = {"accept", "queue", "generate", "prompt", "first token", "write"}
            wait_for("a whole trace", lambda: set(collector.of(run.run_id)) >= wanted, [])
            check_trace(collector, run.run_id)
            failing = chat.say("!fail", persona="bob")
            chat.follow(failing, lambda one: bool([e for e in one.events if e["type"] == "restarted"]))
            chat.send({"type": "stop", "run_id": failing.run_id})
            chat.finish(failing)
            wait_for("the failed attempt", lambda: attempts(collector, failing.run_id) >= 1, [])
            assert set(collector.requests) == {"/v1/traces"}
        unheard = chat.say("nobody collects this")
        wait_for("a word that spans are lost", lambda: "traces are dropped" in said(reef), [])
        assert chat.finish(unheard).final is not None
        with collecting(port) as later:
            run = chat.finish(chat.say("hello again"))
            wait_for("spans after the collector came back", lambda: "write" in later.of(run.run_id), [])
    assert said(reef).count("traces are dropped") <= 4, "said once in each process and absence, not once a second"
    assert "Traceback" not in said(reef)


def said(reef: Reef) -> str:
    """The logs of the two processes that tell spans."""
    logs = reef.data_dir / "logs"
    return (logs / "gateway.log").read_text() + (logs / "chat-simulated.log").read_text()


def check_trace(collector: Collector, run_id: str) -> None:
    """Parents, services and order of a run that was answered at once."""
    spans = collector.of(run_id)
    assert spans["accept"]["service"] == "coral-reef-gateway", "that is where its frame came in"
    assert spans["accept"]["parent"] == ""
    assert {spans[name]["service"] for name in ("queue", "generate", "prompt", "write")} == {"coral-reef-worker"}
    assert spans["queue"]["parent"] == spans["generate"]["parent"] == spans["accept"]["id"]
    parts = [spans[name] for name in ("prompt", "first token", "write")]
    assert {part["parent"] for part in parts} == {spans["generate"]["id"]}
    times = [spans["queue"]["began"], spans["queue"]["ended"]]
    times += [moment for part in parts for moment in (part["began"], part["ended"])]
    assert times == sorted(times), times  # type: ignore[type-var]
    assert spans["accept"]["began"] <= spans["queue"]["began"]  # type: ignore[operator]
    assert spans["generate"]["ended"] >= spans["write"]["ended"]  # type: ignore[operator]
    told = str([span["attributes"] for span in spans.values()])
    assert "hello" not in told, "no text of a conversation is in a span"


def attempts(collector: Collector, run_id: str) -> int:
    """Attempts that ended with an error."""
    found = [span for span in collector.spans if span["trace"] == run_id and span["name"] == "generate"]
    return sum("was told to" in str(span["error"]) for span in found)


def test_ids_follow_from_the_run() -> None:
    """A run's id is its trace's id, so that every process knows it; ids of another shape are digested."""
    run_id = "0123456789abcdef0123456789abcdef"
    assert trace_id(run_id) == int(run_id, 16)
    assert 0 < trace_id("chosen by a client") < 1 << 128
    assert trace_id("0" * 32) > 0, "an all-zero id is none"
    assert span_id(run_id, "accept") == span_id(run_id, "accept") != span_id(run_id, "attempt 1")
    assert 0 < span_id(run_id, "accept") < 1 << 64


def test_the_collector_is_named_by_either_variable() -> None:
    """OpenTelemetry's own name is understood, and ours wins."""
    assert load_settings({}).otlp_url == ""
    known = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}
    assert load_settings(known).otlp_url == "http://a:4318"
    assert load_settings(known | {"REEF_OTLP_URL": "http://b:4318"}).otlp_url == "http://b:4318"


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:4318"])
def test_without_a_collector_nothing_is_imported(url: str) -> None:
    """Off means off: no module of OpenTelemetry in the process. On, there are some."""
    program = (
        "import sys, reef.ledger.execute, reef.conversation.reply, app.desk\n"
        "from reef.tracing import open_spans\n"
        "from reef.settings import Settings\n"
        f"spans = open_spans(Settings(otlp_url={url!r}), 'web')\n"
        "print(sum(name.startswith('opentelemetry') for name in sys.modules))\n"
    )
    answer = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert (int(answer.stdout) > 0) is bool(url)
    assert Settings(otlp_url=url).environment()["REEF_OTLP_URL"] == url
