"""OpenAI-compatible endpoints: personas as models. Stateless: nothing is stored in a session.

A client that goes away stops its run, because nobody else can watch it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
from flask import Response, request

from app.api.chat import GRACE_S, failure_of
from app.api.openai_shapes import (
    Choice,
    Chunk,
    ChunkChoice,
    Completion,
    CompletionMessage,
    CompletionRequest,
    CompletionUsage,
    Delta,
    Model,
    ModelList,
    ReplyMessage,
    TextPart,
)
from app.clients import client_gone
from app.desk import Accepted
from app.listener import Closed, Hopeless, Listener
from app.refusals import Refusal, refusal_of
from app.services import Services
from app.sse import HEADERS, MEDIA_TYPE, EventStream, open_listener
from app.web import Call, openai_error
from reef.contracts.events import FINAL, Done, Error, Event, Restarted, Stopped, Token, Usage
from reef.contracts.jobs import CompletionJob
from reef.personas.store import Persona, UnknownPersona, get_persona, list_personas

LOOK_S = 0.5
"""How often we look whether a client that waits is still there."""
COMMENT_EVERY_S = 10.0


def models(call: Call) -> ModelList:
    """List the personas and the model itself."""
    bare = Model(id=_bare_model(call.services), created=0)
    personas = list_personas(call.services.database)
    return ModelList(data=[bare, *(Model(id=p.id, created=int(p.created_at)) for p in personas)])


def model(call: Call, model_id: str) -> Model:
    """Describe a persona or the model itself."""
    if model_id == _bare_model(call.services):
        return Model(id=model_id, created=0)
    persona = _persona(call.services, model_id)
    return Model(id=model_id, created=int(persona.created_at) if persona else 0)


def complete(call: Call) -> Response | Completion:
    """Answer a list of messages, streamed or not."""
    body: CompletionRequest = call.body
    services = call.services
    _refuse_unsupported(body)
    job = _job(services, body)
    listener = open_listener(services)
    watch = EventStream(services, listener)
    try:
        accepted = services.desk.complete(job)
        listener.follow(accepted.run.id)
    except BaseException:
        watch.close()
        raise
    run = _Run(services, listener, accepted, body.model, client_gone(request.environ))
    if body.stream:
        usage = bool(body.stream_options and body.stream_options.include_usage)
        return Response(_Chunks(run, watch, usage=usage), mimetype=MEDIA_TYPE, headers=HEADERS)
    try:
        return run.whole()
    finally:
        run.abandon()
        watch.close()


class _Gone(Exception):
    """The client hung up."""


class _Run:
    """A completion on its way."""

    def __init__(
        self, services: Services, listener: Listener, accepted: Accepted, model_id: str, gone: Callable[[], bool]
    ) -> None:
        self._services, self._listener, self._gone = services, listener, gone
        self.run_id = accepted.run.id
        self.id = f"chatcmpl-{accepted.run.id}"
        self.created = int(accepted.run.created_at)
        self.model = model_id
        self._ended = False
        limits = services.topology.pool(CompletionJob.POOL).limits
        self._deadline = time.monotonic() + limits.deadline_s + GRACE_S

    def events(self) -> Iterator[Event | None]:
        """The run's events; None now and then, while there is none. Raises _Gone, Refusal, Closed, Hopeless."""
        while True:
            told = self._listener.next(LOOK_S)
            if not told:
                if self._gone():
                    raise _Gone
                if time.monotonic() > self._deadline:
                    raise Refusal(504, "not_ready", "Not ready in time", "The reply took longer than this pool allows.")
                yield None
            for item in told:
                if isinstance(item.event, FINAL):
                    self._ended = True
                yield item.event
                if self._ended:
                    return

    def whole(self) -> Completion:
        """The finished completion. Raises Refusal."""
        parts: list[str] = []
        for event in self.events():
            if isinstance(event, Restarted):
                parts.clear()
            elif isinstance(event, Token):
                parts.append(event.content)
            elif isinstance(event, Error):
                raise failure_of(event, self.run_id)
            elif isinstance(event, Done | Stopped):
                message = ReplyMessage(content="".join(parts))
                choice = Choice(message=message, finish_reason=_finish(event))
                return Completion(
                    id=self.id, created=self.created, model=self.model, choices=[choice], usage=_usage(event.usage)
                )
        raise Refusal(502, "run_failed", "No reply", "The run ended without an answer.")

    def abandon(self) -> None:
        """Nobody listens any more: free the device."""
        if not self._ended:
            self._ended = True
            self._services.desk.stop(self.run_id)


class _Telling:
    """What a client was told, which this protocol cannot take back."""

    def __init__(self) -> None:
        self._told = ""
        self._anew = ""

    def again(self) -> None:
        """The text begins anew."""
        self._anew = ""

    def more(self, content: str) -> str:
        """What of this the client does not have yet. Raises Refusal where the text took another turn."""
        self._anew += content
        if len(self._anew) <= len(self._told):
            same, new = self._told.startswith(self._anew), ""
        else:
            same, new = self._anew.startswith(self._told), self._anew[len(self._told) :]
        if not same:
            detail = "The device failed in the middle of this reply and another began it anew, differently; ask again."
            raise Refusal(502, "restarted", "Reply began anew", detail)
        self._told += new
        return new


class _Chunks:
    """A completion as server-sent chunks."""

    def __init__(self, run: _Run, watch: EventStream, *, usage: bool) -> None:
        self._run, self._watch, self._with_usage = run, watch, usage

    def __iter__(self) -> Iterator[str]:
        try:
            yield from self._chunks()
        except (_Gone, Hopeless):
            return
        except (Refusal, Closed) as error:
            yield _data(openai_error(refusal_of(error)))

    def close(self) -> None:
        """The client has it all or is gone."""
        self._run.abandon()
        self._watch.close()

    def _chunks(self) -> Iterator[str]:
        yield self._chunk(Delta(role="assistant", content=""))
        telling, commented_at = _Telling(), time.monotonic()
        for event in self._run.events():
            if event is None and time.monotonic() - commented_at > COMMENT_EVERY_S:
                commented_at = time.monotonic()
                yield ": still here\n\n"
            elif isinstance(event, Restarted):
                telling.again()
            elif isinstance(event, Token):
                if text := telling.more(event.content):
                    yield self._chunk(Delta(content=text))
            elif isinstance(event, Error):
                raise failure_of(event, self._run.run_id)
            elif isinstance(event, Done | Stopped):
                yield self._chunk(Delta(), _finish(event))
                if self._with_usage:
                    yield self._usage_chunk(event.usage)
                yield "data: [DONE]\n\n"

    def _chunk(self, delta: Delta, finish: str | None = None) -> str:
        choice = ChunkChoice(delta=delta, finish_reason=finish)
        return _data(Chunk(id=self._run.id, created=self._run.created, model=self._run.model, choices=[choice]))

    def _usage_chunk(self, usage: Usage) -> str:
        run = self._run
        return _data(Chunk(id=run.id, created=run.created, model=run.model, choices=[], usage=_usage(usage)))


def _data(body: Any) -> str:
    return f"data: {msgspec.json.encode(body).decode()}\n\n"


def _finish(event: Done | Stopped) -> str:
    return event.finish_reason if isinstance(event, Done) else "stop"


def _usage(usage: Usage) -> CompletionUsage:
    return CompletionUsage(
        prompt_tokens=usage.prompt, completion_tokens=usage.completion, total_tokens=usage.prompt + usage.completion
    )


def _bare_model(services: Services) -> str:
    return services.topology.pool(CompletionJob.POOL).model or "default"


def _persona(services: Services, model_id: str) -> Persona | None:
    """The persona of that name; None for the model itself. Raises Refusal."""
    if model_id == _bare_model(services):
        return None
    try:
        return get_persona(services.database, model_id)
    except UnknownPersona:
        detail = f"There is no model {model_id!r} here; GET /v1/models lists the personas that can be named."
        raise Refusal(404, "model_not_found", "Unknown model", detail, param="model") from None


def _job(services: Services, body: CompletionRequest) -> CompletionJob:
    persona = _persona(services, body.model)
    messages = [{"role": _role(message), "content": _text(message)} for message in body.messages]
    if persona is not None and persona.system_prompt and not any(m["role"] == "system" for m in messages):
        messages.insert(0, {"role": "system", "content": persona.system_prompt})
    limit = services.topology.pool(CompletionJob.POOL).limits.tokens_max
    asked = body.max_completion_tokens or body.max_tokens or limit
    temperature = body.temperature
    if temperature is None and persona is not None:
        temperature = persona.temperature
    stop = [body.stop] if isinstance(body.stop, str) else (body.stop or [])
    return CompletionJob(
        messages=messages,
        tokens_max=min(asked, limit),
        persona_id=persona.id if persona else None,
        temperature=temperature,
        top_p=body.top_p,
        seed=body.seed,
        stop=[text for text in stop if text],
        schema=_schema(body),
    )


def _role(message: CompletionMessage) -> str:
    if message.role in ("tool", "function"):
        raise _unsupported("messages", "Messages of tools are not supported.")
    return "system" if message.role == "developer" else message.role


def _text(message: CompletionMessage) -> str:
    if message.content is None:
        raise _unsupported("messages", "Each message needs a text as its content.")
    if isinstance(message.content, str):
        return message.content
    if not all(isinstance(part, TextPart) for part in message.content):
        raise _unsupported("messages", "Only text is supported: the models here neither see nor hear.")
    return "".join(part.text for part in message.content if isinstance(part, TextPart))


def _schema(body: CompletionRequest) -> dict[str, object] | None:
    wanted = body.response_format
    if wanted is None or wanted.type == "text":
        return None
    if wanted.type == "json_object":
        return {"type": "object"}
    if wanted.json_schema is None or not wanted.json_schema.schema:
        raise _unsupported("response_format", "response_format json_schema needs json_schema.schema.")
    return wanted.json_schema.schema


def _refuse_unsupported(body: CompletionRequest) -> None:
    unsupported = {
        "n": (body.n or 1) > 1,
        "tools": bool(body.tools),
        "functions": bool(body.functions),
        "logprobs": bool(body.logprobs),
        "top_logprobs": bool(body.top_logprobs),
        "logit_bias": bool(body.logit_bias),
        "frequency_penalty": bool(body.frequency_penalty),
        "presence_penalty": bool(body.presence_penalty),
        "audio": body.audio is not None,
        "modalities": body.modalities not in (None, [], ["text"]),
    }
    for name, asked in unsupported.items():
        if asked:
            raise _unsupported(name, f"{name} is not supported here; leave it out.")


def _unsupported(param: str, detail: str) -> Refusal:
    return Refusal(400, "unsupported", "Not supported", detail, param=param)
