"""Saying something to a persona over HTTP: waiting for the reply, not waiting, or streaming it."""

from __future__ import annotations

import time
from typing import Any

from flask import Response, request

from app.api.shapes import AcceptedTurn, ChatRequest, MessageView, Reply
from app.desk import Accepted
from app.items import Item, item
from app.listener import Listener
from app.refusals import Refusal
from app.services import Services
from app.session import settled
from app.sse import EventStream, open_listener, stream
from app.web import Answer, Call
from reef.contracts.events import FINAL, REFUSED, Done, Error, Metrics, Stopped
from reef.contracts.jobs import ChatJob
from reef.conversation import store
from reef.ledger import JobRecord

KEY_CHARS_MAX = 128
WAIT_SLICE_S = 5.0
GRACE_S = 5.0
"""The ledger ends an overdue run; we wait this much longer to hear of it."""


def say(call: Call) -> Answer | Reply:
    """Say something and wait for the reply, or (wait false) only hand it in."""
    body: ChatRequest = call.body
    services = call.services
    if not body.wait:
        accepted = services.desk.say(**_words(body))
        return Answer(status=202, body=accepted_turn(accepted))
    listener = open_listener(services)
    waiting = EventStream(services, listener)
    try:
        accepted = services.desk.say(**_words(body), on_accepted=lambda run: _follow(listener, run))
        final = wait_for_end(services, listener, accepted)
    finally:
        waiting.close()
    return _reply(services, accepted, final)


def say_streamed(call: Call) -> Response:
    """Say something and get the reply as server-sent events."""
    body: ChatRequest = call.body

    def follow(listener: Listener, accepted: Accepted) -> None:
        # the stream may lack this event where a worker was very fast
        listener.tell(item(accepted.queued))
        listener.follow(accepted.run.id, accepted.queued.seq, ended=_ended(accepted))

    def begin(listener: Listener) -> None:
        call.services.desk.say(**_words(body), on_accepted=lambda accepted: follow(listener, accepted))

    return stream(call.services, begin)


def accepted_turn(accepted: Accepted) -> AcceptedTurn:
    """An accepted turn as clients see it."""
    turn = accepted.conversation
    return AcceptedTurn(
        run_id=accepted.run.id,
        session_id=turn.session_id,
        prompt_message_id=turn.prompt_message_id,
        reply_message_id=turn.reply_message_id,
        position=accepted.queued.position,
        wait_s=accepted.queued.wait_s,
    )


def wait_for_end(services: Services, listener: Listener, accepted: Accepted) -> list[Item]:
    """All events of a run, once it ended. Raises Refusal at the pool's deadline, Closed when we shut down."""
    limit_s = services.topology.pool(ChatJob.POOL).limits.deadline_s + GRACE_S
    deadline = time.monotonic() + limit_s
    heard: list[Item] = []
    while time.monotonic() < deadline:
        for told in listener.next(WAIT_SLICE_S):
            heard.append(told)
            if isinstance(told.event, FINAL):
                return heard
    detail = f"The reply was not ready after {limit_s:.0f} s; the run goes on and can be watched."
    raise Refusal(504, "not_ready", "Not ready in time", detail, run_id=accepted.run.id)


def failure_of(error: Error, run_id: str) -> Refusal:
    """What a failed run means to a client that waited for it."""
    if error.code in REFUSED:
        return Refusal(422, error.code, "Cannot be answered", error.message, run_id=run_id)
    return Refusal(502, "run_failed", "No reply could be written", error.message, run_id=run_id)


def _words(body: ChatRequest) -> dict[str, Any]:
    key = request.headers.get("Idempotency-Key")
    if key is not None and not (1 <= len(key) <= KEY_CHARS_MAX and key.isprintable()):
        detail = f"Idempotency-Key must have 1 to {KEY_CHARS_MAX} printable characters."
        raise Refusal(400, "bad_idempotency_key", "Bad Idempotency-Key", detail)
    return {
        "persona_id": body.persona_id,
        "text": body.message,
        "session_id": body.session_id,
        "tokens_max": body.tokens_max,
        "idempotency_key": key,
    }


def _follow(listener: Listener, accepted: Accepted) -> None:
    listener.follow(accepted.run.id, whole=True, ended=_ended(accepted))


def _ended(accepted: Accepted) -> JobRecord | None:
    return accepted.run if settled(accepted.run) else None


def _reply(services: Services, accepted: Accepted, heard: list[Item]) -> Reply:
    final = heard[-1].event
    if isinstance(final, Error):
        raise failure_of(final, accepted.run.id)
    if not isinstance(final, Done | Stopped):
        raise TypeError(f"a run ended with {type(final).__name__}")
    message: MessageView | None = None
    if final.message_id:
        with services.database.read() as connection:
            stored = store.find_message(connection, final.message_id)
        html = services.renderer.html(stored.content)
        message = MessageView(**{name: getattr(stored, name) for name in stored.__struct_fields__}, html=html)
    metrics = final.metrics if isinstance(final, Done) else Metrics()
    return Reply(
        run_id=accepted.run.id,
        session_id=accepted.conversation.session_id,
        message=message,
        usage=final.usage,
        metrics=metrics,
    )
