"""Jobs that a request waits for: handed in, waited for, their result taken out of the ledger."""

from __future__ import annotations

import time
from typing import TypeVar

import msgspec
from flask import request

from app.clients import client_gone
from app.listener import Listener
from app.refusals import Refusal
from app.services import Services
from app.sse import EventStream, open_listener
from reef.contracts.events import FINAL, Done, Error, Event
from reef.contracts.jobs import Job

WAIT_MAX_S = 60.0
"""Who waits longer for a search is told so; the job is taken back."""
LOOK_S = 0.5
T = TypeVar("T")


def answer(services: Services, job: Job, kind: type[T], attachment: bytes = b"") -> T:
    """The result of this job; `attachment` is what it works on, where that is long.

    Raises Refusal, PoolClosed, PoolFull, BrokerDown, BrokerAway.
    """
    listener = open_listener(services)
    watch = EventStream(services, listener)
    run_id = ""
    ended = False
    try:
        run_id = services.desk.complete(job, attachment).run.id
        listener.follow(run_id)
        _wait(listener, run_id)
        ended = True
        return take_result(services, run_id, kind)
    finally:
        watch.close()
        if run_id and not ended:
            services.desk.stop(run_id)


def take_result(services: Services, run_id: str, kind: type[T]) -> T:
    """The result of a job that is done; it can be taken once. Raises Refusal."""
    result = services.ledger.take_result(run_id)
    if result is None:
        raise Refusal(502, "run_failed", "No answer", "The job ended without a result; ask again.", run_id=run_id)
    try:
        return msgspec.json.decode(result, type=kind)
    except msgspec.ValidationError:
        detail = "The worker that answered is of another version; update and restart it."
        raise Refusal(502, "run_failed", "No answer", detail, run_id=run_id) from None


def answered(event: Event | None, run_id: str) -> bool:
    """Whether this event says that the job is done. Raises Refusal where it says that it failed or was stopped."""
    if isinstance(event, Error):
        raise _failure(event, run_id)
    if isinstance(event, FINAL) and not isinstance(event, Done):
        raise Refusal(502, "run_failed", "No answer", "The job was stopped; ask again.", run_id=run_id)
    return isinstance(event, Done)


def not_in_time(run_id: str) -> Refusal:
    """The answer to who waited WAIT_MAX_S in vain."""
    detail = f"The device did not get to it within {WAIT_MAX_S:.0f} s; try again later."
    return Refusal(504, "not_ready", "Not ready in time", detail, run_id=run_id)


def _wait(listener: Listener, run_id: str) -> None:
    gone = client_gone(request.environ)
    deadline = time.monotonic() + WAIT_MAX_S
    while time.monotonic() < deadline:
        told = listener.next(LOOK_S)
        if any(answered(one.event, run_id) for one in told):
            return
        if not told and gone():
            raise Refusal(502, "run_failed", "No answer", "The client hung up.", run_id=run_id)
    raise not_in_time(run_id)


def _failure(error: Error, run_id: str) -> Refusal:
    if error.code == "refused":
        return Refusal(422, "refused", "Cannot be answered", error.message, run_id=run_id)
    return Refusal(502, "run_failed", "No answer", error.message, run_id=run_id)
