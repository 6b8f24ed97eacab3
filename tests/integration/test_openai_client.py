"""The OpenAI endpoints, spoken to by OpenAI's own client."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import openai
import pytest

if TYPE_CHECKING:
    from conftest import Web
    from played_device import Answerer, Stage

SAY = [{"role": "user", "content": "Hello!"}]


@pytest.fixture
def client(web: Web) -> Iterator[openai.OpenAI]:
    """OpenAI's client, without its retries."""
    with openai.OpenAI(base_url=f"{web.url}/v1", api_key="none", max_retries=0, timeout=15) as made:
        yield made


def test_personas_are_models(client: openai.OpenAI) -> None:
    """The list names the personas and the bare model; each can be looked at."""
    names = {model.id for model in client.models.list()}
    assert {"alice", "test-model"} <= names
    assert client.models.retrieve("alice").owned_by == "coral-reef"
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("nobody")


def test_a_completion_is_answered(client: openai.OpenAI, answering: Answerer) -> None:
    """Text, finish reason and token counts in OpenAI's words."""
    reply = client.chat.completions.create(model="alice", messages=SAY)  # type: ignore[arg-type]
    assert reply.choices[0].message.content is not None
    assert reply.choices[0].message.content.strip() == answering.text
    assert reply.choices[0].finish_reason == "stop"
    assert reply.usage is not None
    assert (reply.usage.prompt_tokens, reply.usage.completion_tokens, reply.usage.total_tokens) == (7, 4, 11)


def test_a_completion_is_streamed(client: openai.OpenAI, answering: Answerer) -> None:
    """Chunks of one completion, its usage when asked for, and [DONE]."""
    stream = client.chat.completions.create(
        model="test-model",
        messages=SAY,  # type: ignore[arg-type]
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices).strip() == answering.text
    assert len({chunk.id for chunk in chunks}) == 1
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "stop"
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.total_tokens == 11


def test_what_was_asked_for_reaches_the_worker(client: openai.OpenAI, stage: Stage) -> None:
    """Limits, sampling, stop texts, schema, and the persona's own instructions where the client sent none."""
    asked: dict[str, Any] = {
        "model": "alice",
        "messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}],
        "max_completion_tokens": 9,
        "temperature": 0.1,
        "top_p": 0.5,
        "seed": 42,
        "stop": ["END"],
        "response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "object"}}},
    }
    with _Later(client, asked):
        job = json.loads(stage.take().begin().say("{}").finished().claim.job.payload)
    assert job["messages"][0]["role"] == "system"
    assert "Alice" in job["messages"][0]["content"]
    assert job["messages"][1] == {"role": "user", "content": "ab"}
    expected = {"tokens_max": 9, "temperature": 0.1, "top_p": 0.5, "seed": 42, "stop": ["END"]}
    assert {name: job[name] for name in expected} == expected
    assert job["schema"] == {"type": "object"}
    own = asked | {"messages": [{"role": "developer", "content": "Be mine."}, *SAY], "max_completion_tokens": 10_000}
    with _Later(client, own):
        job = json.loads(stage.take().begin().say("{}").finished().claim.job.payload)
    assert [message["content"] for message in job["messages"]] == ["Be mine.", "Hello!"]
    assert job["tokens_max"] == 64


@pytest.mark.parametrize(
    ("extra", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools"),
        ({"logprobs": True}, "logprobs"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "1"}]}, "messages"),
        ({"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}}, "response_format"),
        ({"messages": []}, "messages"),
        ({"temperature": 9}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
    ],
)
def test_what_is_not_supported_is_refused_by_name(client: openai.OpenAI, extra: dict[str, Any], param: str) -> None:
    """400 in OpenAI's shape, with the parameter that is to be left out or changed."""
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(**({"model": "alice", "messages": SAY} | extra))
    assert caught.value.type == "invalid_request_error"
    assert caught.value.param is not None
    assert caught.value.param.startswith(param)


def test_errors_have_openais_shape(web: Web, client: openai.OpenAI) -> None:
    """Unknown models, wrong methods, bad JSON and unknown paths: {"error": {...}}, never a problem document."""
    with pytest.raises(openai.NotFoundError) as caught:
        client.chat.completions.create(model="nobody", messages=SAY)  # type: ignore[arg-type]
    assert caught.value.code == "model_not_found"
    with web.client() as http:
        json_body = {"Content-Type": "application/json"}
        for answer, status in (
            (http.get("/v1/nothing"), 404),
            (http.get("/v1/chat/completions"), 405),
            (http.post("/v1/chat/completions", content="{", headers=json_body), 400),
            (http.post("/v1/chat/completions", content="{}"), 415),
        ):
            assert answer.status_code == status
            assert set(answer.json()) == {"error"}
            assert answer.json()["error"]["message"]


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_hangs_up_frees_the_device(
    web: Web, client: openai.OpenAI, stage: Stage, *, stream: bool
) -> None:
    """Nobody else can watch such a run, so it is stopped within a second or two."""
    impatient = client.with_options(timeout=1.0)

    def ask() -> None:
        with pytest.raises(openai.APITimeoutError):  # noqa: PT012 - the time-out may come at either call
            told = impatient.chat.completions.create(model="alice", messages=SAY, stream=stream)  # type: ignore[call-overload]
            list(told)

    asker = threading.Thread(target=ask)
    asker.start()
    run_id = stage.take().begin().claim.job.id
    asker.join(10)
    deadline = time.monotonic() + 5
    while not stage.record(run_id).stop_requested:
        assert time.monotonic() < deadline, "the run goes on for nobody"
        time.sleep(0.02)


def test_a_reply_that_begins_anew_is_not_sewn_together(client: openai.OpenAI, stage: Stage) -> None:
    """After a worker's death the same words go on silently; other words are an error, since none can be taken back."""
    from reef.contracts.events import Restarted

    heard: list[str] = []
    failures: list[Exception] = []

    def ask() -> None:
        try:
            for chunk in client.chat.completions.create(model="alice", messages=SAY, stream=True):  # type: ignore[arg-type]
                heard.append(chunk.choices[0].delta.content or "")
        except openai.APIError as error:
            failures.append(error)

    for again, whole in ((("one ", "two"), "one two"), (("other ",), None)):
        heard.clear()
        asker = threading.Thread(target=ask)
        asker.start()
        act = stage.take().begin().say("one ")
        stage.ledger.release_owner("chat-simulated")
        new = stage.take(act.claim.job.id)
        new.emit(Restarted(reason="its worker died"))
        new.begin().say(*again)
        if whole:
            new.finished()
        asker.join(10)
        if whole:
            assert "".join(heard) == whole
            assert not failures
        else:
            assert "began it anew" in str(failures[0])


class _Later:
    """Asks in a thread and waits for the answer at the end."""

    def __init__(self, client: openai.OpenAI, asked: dict[str, Any]) -> None:
        self._thread = threading.Thread(target=lambda: client.chat.completions.create(**asked))

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()
