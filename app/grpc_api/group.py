"""Asking several personas the same question at once, each in a run of its own. Chooses nobody: it is no room."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Annotated

import msgspec
from msgspec import Meta

from app.grpc_api import shapes
from app.grpc_api.access import Context
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as services
from app.grpc_api.hosting import Hearing, Host
from app.grpc_api.limits import HEAR_S
from app.refusals import FieldError, Refusal, refusal_of
from reef.contracts.events import FINAL, Error, Queued
from reef.contracts.frames import ChatFrame, Identifier, MessageText

ASKED_MAX = 8
"""Personas of one question."""
KEY_CHARS_MAX = 63
"""Of an idempotency key: each persona's own is made of it and the persona's id, and is as long as a key may be."""


class Question(msgspec.Struct, frozen=True, kw_only=True):
    """A question to several personas."""

    persona_ids: Annotated[list[Identifier], Meta(min_length=1, max_length=ASKED_MAX)]
    message: MessageText
    session_ids: dict[str, Identifier] = {}
    tokens_max: int | None = None
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=KEY_CHARS_MAX)] | None = None

    def frames(self) -> list[ChatFrame]:
        """What is said to each of them. Raises msgspec.ValidationError and Refusal."""
        if len(set(self.persona_ids)) < len(self.persona_ids):
            raise _bad("persona_ids", "Name each persona once.")
        if strangers := [one for one in self.session_ids if one not in self.persona_ids]:
            raise _bad("session_ids", f"{strangers[0]!r} is not among the personas that are asked.")
        return [self._frame(persona_id) for persona_id in self.persona_ids]

    def _frame(self, persona_id: str) -> ChatFrame:
        key = self.idempotency_key
        frame = ChatFrame(
            persona_id=persona_id,
            message=self.message,
            session_id=self.session_ids.get(persona_id),
            idempotency_key=f"{key}:{persona_id}" if key else None,
            tokens_max=self.tokens_max,
        )
        return msgspec.convert(msgspec.to_builtins(frame), ChatFrame)


class Group(services.GroupServicer):
    """Talking to several personas at once."""

    def __init__(self, host: Host) -> None:
        self._host = host

    async def Ask(self, request: pb.AskRequest, context: Context) -> AsyncIterator[pb.GroupEvent]:  # noqa: N802
        """Ask them and hear all their runs."""
        frames = shapes.read(request, Question).frames()
        with self._host.hear() as hearing:
            asked = 0
            for frame in frames:
                refused = await _ask(hearing, frame)
                asked += refused is None
                if refused is not None:
                    yield refused
            async for event in _runs(hearing, asked):
                yield event


async def _ask(hearing: Hearing, frame: ChatFrame) -> pb.GroupEvent | None:
    """Say it to one of them; gives the refusal where it cannot be said."""
    try:
        await hearing.say(frame)
    except Exception as error:  # noqa: BLE001 - refusal_of logs what it does not know
        refusal = refusal_of(error)
        told = Error(code=refusal.code, message=refusal.detail, retry_after_s=refusal.retry_after_s)
        return pb.GroupEvent(persona_id=frame.persona_id, event=shapes.run_event(told))
    return None


async def _runs(hearing: Hearing, asked: int) -> AsyncIterator[pb.GroupEvent]:
    """The events of so many runs, as they come, until all have ended."""
    personas: dict[str, str] = {}
    while asked:
        for told in await hearing.next(HEAR_S):
            event = told.event
            if event is None:
                continue
            if isinstance(event, Queued):  # the first of each run
                personas[event.run_id] = event.persona_id
            yield pb.GroupEvent(persona_id=personas.get(event.run_id, ""), event=shapes.run_event(event))
            asked -= isinstance(event, FINAL)


def _bad(field: str, detail: str) -> Refusal:
    return Refusal(400, "invalid", "Invalid request", detail, errors=(FieldError(field, detail),))
