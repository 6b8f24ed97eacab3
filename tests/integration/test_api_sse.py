"""Server-sent events: the run as a browser hears it, resumed by the id of the last event."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import httpx
import pytest

from app import sse
from app.services import build
from reef.contracts.events import Done, Queued, RunEvent, Token

if TYPE_CHECKING:
    from conftest import Web
    from played_device import Answerer, Stage

SseOf = Callable[[Iterator[str]], Iterator[tuple[str, RunEvent]]]
V1 = "/api/v1"


def start(client: httpx.Client, **fields: object) -> str:
    ask = {"persona_id": "alice", "message": "Hello!", "wait": False} | fields
    return str(client.post(f"{V1}/chat", json=ask).json()["run_id"])


def test_a_streamed_chat_is_told_from_its_first_event(web: Web, answering: Answerer, sse_of: SseOf) -> None:
    """POST /chat/stream: queued … done, each with its number as id; then the stream ends."""
    ask = {"persona_id": "alice", "message": "Hello!"}
    with web.client() as client, client.stream("POST", f"{V1}/chat/stream", json=ask) as answer:
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["Cache-Control"] == "no-cache, no-transform"
        assert answer.headers["X-Accel-Buffering"] == "no"
        told = list(sse_of(answer.iter_lines()))
    assert isinstance(told[0][1], Queued)
    assert isinstance(told[-1][1], Done)
    assert "".join(event.content for _, event in told if isinstance(event, Token)).strip() == answering.text
    numbers = [event.seq for _, event in told if event.seq]
    assert numbers == sorted(set(numbers))
    assert all(identity == str(event.seq) for identity, event in told if event.seq)


def test_a_broken_stream_goes_on_where_it_was(web: Web, stage: Stage, sse_of: SseOf) -> None:
    """With Last-Event-ID (or ?after=) exactly the rest comes, while the run goes on."""
    with web.client() as client:
        run_id = start(client)
        act = stage.take(run_id).begin().say("one ", "two ")
        with client.stream("GET", f"{V1}/runs/{run_id}/events") as answer:
            heard = []
            for _, event in sse_of(answer.iter_lines()):
                heard.append(event)
                if isinstance(event, Token) and event.content == "two ":
                    break
        act.say("three ")
        header = {"Last-Event-ID": str(heard[-1].seq)}
        with client.stream("GET", f"{V1}/runs/{run_id}/events", headers=header) as answer:
            for _, event in sse_of(answer.iter_lines()):
                heard.append(event)
                if isinstance(event, Token):
                    act.say("four").done()
                    break
        with client.stream("GET", f"{V1}/runs/{run_id}/events?after={heard[-1].seq}") as answer:
            heard += [event for _, event in sse_of(answer.iter_lines())]
    assert "".join(event.content for event in heard if isinstance(event, Token)) == "one two three four"
    assert isinstance(heard[-1], Done)


def test_hanging_up_stops_nothing(web: Web, stage: Stage) -> None:
    """A run is stopped by saying so, not by closing a page."""
    ask = {"persona_id": "alice", "message": "Hello!"}
    with web.client() as client:
        with client.stream("POST", f"{V1}/chat/stream", json=ask) as answer:
            next(answer.iter_lines())
        act = stage.take().begin().say("nobody listens")
        assert not stage.record(act.claim.job.id).stop_requested
        message_id = act.done()
        assert client.get(f"{V1}/messages/{message_id}").json()["content"] == "nobody listens"


def test_after_the_end_there_is_nothing_to_resume(web: Web, stage: Stage) -> None:
    """204 tells a browser's EventSource to stop asking; an unknown run is 404, a foreign id 400."""
    with web.client() as client:
        run_id = start(client)
        act = stage.take(run_id).begin().say("x")
        act.done()
        last = {"Last-Event-ID": str(act.claim.token * 1_000_000 + act.n)}
        assert client.get(f"{V1}/runs/{run_id}/events", headers=last).status_code == 204
        assert client.get(f"{V1}/runs/nobody/events").status_code == 404
        for wrong in ("abc", "-1", "1e9", "9" * 40):
            refused = client.get(f"{V1}/runs/{run_id}/events", headers={"Last-Event-ID": wrong})
            assert (refused.status_code, refused.json()["code"]) == (400, "bad_event_id")


def test_a_silent_stream_is_kept_alive(web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """While nothing happens a comment comes every fifteen seconds, so that no proxy closes the line."""
    assert sse.HEARTBEAT_S == 15.0
    monkeypatch.setattr(sse, "HEARTBEAT_S", 0.05)
    parts = build(web.settings)
    stream = sse.EventStream(parts, sse.open_listener(parts))
    told = iter(stream)
    try:
        assert next(told).startswith("retry: ")
        assert next(told) == next(told) == ": heartbeat\n\n"
    finally:
        stream.close()
        parts.close()
        parts.redis.close()
        parts.database.dispose()
    assert parts.counts.streams_open == 0


def test_bad_requests_are_refused_before_a_stream_begins(web: Web) -> None:
    """A status and a problem, not a stream with an error in it."""
    with web.client() as client:
        unknown = client.post(f"{V1}/chat/stream", json={"persona_id": "nobody", "message": "x"})
        assert (unknown.status_code, unknown.json()["code"]) == (404, "unknown_persona")
        assert client.post(f"{V1}/chat/stream", json={"persona_id": "alice"}).status_code == 400
