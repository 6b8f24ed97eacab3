"""OpenAI's and Cohere's APIs, as documented, spoken by a local server that can also misbehave."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from embeddings_engine import (
    BackendFailed,
    BackendUnavailable,
    EmbeddingsEngine,
    RateLimited,
    RequestRefused,
    Reranker,
    Service,
    VectorCache,
)
from embeddings_engine.backends.calling import retry_after_s

DIMENSIONS = 6


class FakeService:
    """OpenAI's /v1/embeddings, Cohere's /v2/embed and /v2/rerank; `faults` come first, one a request."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, dict[str, Any], str]] = []
        self.faults: list[Any] = []
        """(status, headers, body) to answer with; `bytes` to send as they are; `None` to never answer."""
        self.released = threading.Event()
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                service.requests.append((self.path, body, self.headers.get("authorization", "")))
                fault = service.faults.pop(0) if service.faults else (200, {}, service.answer(self.path, body))
                if fault is None:
                    service.released.wait(30)
                    self.close_connection = True
                    return
                status, headers, answer = fault
                data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *args: object) -> None:
                """Quiet."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        if path == "/v1/embeddings":
            texts = body["input"]
            assert len(texts) <= 2048
            rows = [{"object": "embedding", "index": at, "embedding": vector(text)} for at, text in enumerate(texts)]
            tokens = sum(len(text.split()) for text in texts)
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return {"object": "list", "data": rows[::-1], "model": body["model"], "usage": usage}
        if path == "/v2/rerank":
            shared = [len(set(text.split()) & set(body["query"].split())) for text in body["documents"]]
            best = sorted(range(len(shared)), key=lambda at: -shared[at])[: body["top_n"]]
            results = [{"index": at, "relevance_score": shared[at] / 10} for at in best]
            return {"id": "x", "results": results, "meta": {"billed_units": {"search_units": 1}}}
        assert path == "/v2/embed"
        assert len(body["texts"]) <= 96
        assert body["truncate"] == "NONE"
        tokens = sum(len(text.split()) for text in body["texts"])
        rows = [vector(text) for text in body["texts"]]
        meta = {"api_version": {"version": "2"}, "billed_units": {"input_tokens": tokens}}
        return {"id": "1", "embeddings": {"float": rows}, "texts": body["texts"], "meta": meta}

    def close(self) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()


def vector(text: str) -> list[float]:
    return [float(len(text)), float(len(text.split())), 1.0, 0.0, 0.0, -1.0]


@pytest.fixture
def fake() -> Iterator[FakeService]:
    service = FakeService()
    yield service
    service.close()


def settings(fake: FakeService, version: str, **more: Any) -> Service:
    return Service(
        **{
            "api_key": "secret",
            "base_url": f"{fake.url}/{version}",
            "dimensions": DIMENSIONS,
            "backoff_first_s": 0.01,
            "timeout_s": 5.0,
        }
        | more
    )


def openai(fake: FakeService, **more: Any) -> EmbeddingsEngine:
    service = settings(fake, "v1", **more)
    return EmbeddingsEngine("text-embedding-3-small", service=service, cache=VectorCache())


def cohere(fake: FakeService, **more: Any) -> EmbeddingsEngine:
    return EmbeddingsEngine("embed-english-v3.0", service=settings(fake, "v2", **more), cache=VectorCache())


def test_openai_speaks_its_api(fake: FakeService) -> None:
    """Key, model, dimensions and texts are sent; vectors are put in order of `index`; tokens are counted and priced."""
    with openai(fake) as engine:
        rows = engine.encode(["one two", "three four five"])
        usage = engine.stats().usage
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    expected = np.array(vector("one two"))
    np.testing.assert_allclose(rows[0], expected / np.linalg.norm(expected), atol=1e-6)
    path, body, key = fake.requests[0]
    assert (path, key) == ("/v1/embeddings", "Bearer secret")
    assert (body["model"], body["dimensions"]) == ("text-embedding-3-small", DIMENSIONS)
    assert (usage.requests, usage.tokens) == (1, 5)
    assert usage.usd == pytest.approx(5 * 0.02 / 1e6)


def test_cohere_tells_questions_from_documents(fake: FakeService) -> None:
    """`input_type` follows the call, and at most 96 texts go into one request."""
    with cohere(fake, usd_per_million_tokens=1.0) as engine:
        engine.encode_query("a question")
        engine.encode_document([f"document {n}" for n in range(200)])
        usage = engine.stats().usage
    kinds = [body["input_type"] for _, body, _ in fake.requests]
    assert kinds[0] == "search_query"
    assert set(kinds[1:]) == {"search_document"}
    assert sum(len(body["texts"]) for _, body, _ in fake.requests) == 201
    assert usage.usd == pytest.approx(402 / 1e6)


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_busy_service_is_asked_again(fake: FakeService, status: int) -> None:
    """Two refusals, then an answer; the retries are counted."""
    fake.faults = [(status, {"retry-after": "0"}, {"error": "busy"}), (status, {}, {"error": "busy"})]
    with openai(fake) as engine:
        assert engine.encode("text").shape == (DIMENSIONS,)
        assert engine.stats().usage.retries == 2


def test_retries_end(fake: FakeService) -> None:
    """After the attempts that the settings allow the last error is raised."""
    fake.faults = [(503, {}, {"error": "down"})] * 3
    with openai(fake, attempts_max=3) as engine, pytest.raises(BackendFailed, match="answered 503"):
        engine.encode("text")
    assert len(fake.requests) == 3


def test_a_pause_too_long_is_an_error_at_once(fake: FakeService) -> None:
    """A Retry-After beyond the limit is handed to the caller instead of slept through."""
    fake.faults = [(429, {"retry-after": "3600"}, {"error": "come back later"})]
    with openai(fake) as engine, pytest.raises(RateLimited) as caught:
        engine.encode("text")
    assert caught.value.retry_after_s == 3600
    assert len(fake.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 404, 422])
def test_what_cannot_work_is_not_tried_again(fake: FakeService, status: int) -> None:
    """A bad key or model is refused after one request, with what the service said."""
    fake.faults = [(status, {}, {"error": {"message": "Incorrect API key provided"}})]
    with openai(fake) as engine, pytest.raises(RequestRefused, match="Incorrect API key"):
        engine.encode("text")
    assert len(fake.requests) == 1


def test_a_silent_service_times_out_and_is_asked_again(fake: FakeService) -> None:
    """The first request is never answered; the second is."""
    fake.faults = [None]
    with openai(fake, timeout_s=0.3, attempts_max=20) as engine:
        assert engine.encode("text").shape == (DIMENSIONS,)
        # more than once where this machine stood still in the middle of an answer
        assert engine.stats().usage.retries + 1 >= len(fake.requests) > 1


def test_nobody_there_is_said() -> None:
    """A refused connection names the address."""
    with socket.socket() as taken:  # and not listened to: nobody else can have it meanwhile
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        _nobody_there(Service(base_url=f"{url}/v1", dimensions=4, attempts_max=2, backoff_first_s=0.01))


def _nobody_there(service: Service) -> None:
    with (
        EmbeddingsEngine("some-model", service=service) as engine,
        pytest.raises(BackendFailed, match="cannot be reached"),
    ):
        engine.encode("text")


@pytest.mark.parametrize(
    "answer",
    [
        b"<html>gateway</html>",
        {"data": []},
        {"nothing": 1},
        [],
        {"data": [{"index": 0, "embedding": [1.0, 2.0]}]},
        {"data": [{"index": 0, "embedding": [None] * DIMENSIONS}]},
    ],
)
def test_nonsense_is_no_vector(fake: FakeService, answer: Any) -> None:
    """Answers that are no embeddings, too few or of another length are errors."""
    fake.faults = [(200, {}, answer)] * 2
    with openai(fake, attempts_max=2) as engine, pytest.raises(BackendFailed, match="something else"):
        engine.encode("text")


def test_a_thousand_texts_fit_the_limits(fake: FakeService) -> None:
    """Texts are sent in batches, several at once, and come back in order."""
    texts = ["word " * (n % 7 + 1) for n in range(1000)]
    texts = [f"{text}{n}" for n, text in enumerate(texts)]
    with openai(fake) as engine:
        rows = engine.encode(texts)
    for at in (0, 1, 500, 999):
        expected = np.array(vector(texts[at]))
        np.testing.assert_allclose(rows[at], expected / np.linalg.norm(expected), atol=1e-5)


def test_a_key_is_asked_for_before_any_request() -> None:
    """The services' own addresses need one; the message says where it goes."""
    for model in ("text-embedding-3-small", "embed-english-v3.0"):
        with pytest.raises(BackendUnavailable, match="api_key"):
            EmbeddingsEngine(model)
    with pytest.raises(BackendUnavailable, match="dimensions"):
        EmbeddingsEngine("unknown-model", service=Service(base_url="http://127.0.0.1:9/v1"))


def test_retry_after_is_a_number_or_a_date() -> None:
    """Both forms of the header are read; nonsense is as if it were not there."""
    assert retry_after_s("2.5") == 2.5
    assert retry_after_s("-1") == 0
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=40), usegmt=True)
    assert 35 < (retry_after_s(later) or 0) <= 40
    assert [retry_after_s(value) for value in (None, "", "soon", "nan")] == [None] * 4


def test_a_reranker_says_how_well_each_text_answers(fake: FakeService) -> None:
    """The service sorts its answer; the scores come back in the order of the texts."""
    reranker = Reranker("rerank-v3.5", Service(base_url=f"{fake.url}/v2", api_key="k"))
    texts = ["a dry desert", "the reef at low tide", "tide tables"]
    scores = reranker.rank("when is low tide at the reef", texts)
    assert scores.tolist() == pytest.approx([0.0, 0.5, 0.1])
    (_, body, key) = fake.requests[0]
    assert (body["model"], body["documents"], body["top_n"], key) == ("rerank-v3.5", texts, 3, "Bearer k")
    assert reranker.rank("nothing to rank", []).shape == (0,)
    assert reranker.usage().requests == 1
    reranker.close()


@pytest.mark.parametrize(
    "answer",
    [
        {"results": [{"index": 0, "relevance_score": 0.5}]},
        {"results": [{"index": 0, "relevance_score": 0.5}, {"index": 7, "relevance_score": 0.5}]},
        {"results": [{"index": 0, "relevance_score": "NaN"}, {"index": 1, "relevance_score": 0.5}]},
        {"data": []},
        [],
    ],
)
def test_an_answer_that_is_no_ranking_is_said_to_be_none(fake: FakeService, answer: Any) -> None:
    """A text without a score would otherwise look like a bad one."""
    fake.faults = [(200, {}, answer)]
    reranker = Reranker("", Service(base_url=f"{fake.url}/v2"))
    with pytest.raises(BackendFailed, match="something else than a ranking"):
        reranker.rank("tide", ["one", "two"])
    assert "model" not in fake.requests[0][1]
    reranker.close()


def test_a_reranker_refuses_what_cannot_be_asked(fake: FakeService) -> None:
    """Before anything is sent."""
    with pytest.raises(BackendUnavailable, match="address"):
        Reranker("m", Service())
    reranker = Reranker("m", Service(base_url=fake.url))
    with pytest.raises(RequestRefused, match="at most 1000"):
        reranker.rank("tide", ["x"] * 1001)
    assert fake.requests == []
    reranker.close()
