"""Conversations and their messages."""

from __future__ import annotations

import msgspec

from app.api.chat import accepted_turn
from app.api.shapes import (
    AcceptedTurn,
    ActiveRun,
    EditRequest,
    History,
    MessageView,
    SessionChange,
    SessionDraft,
    SessionQuery,
)
from app.services import Services
from app.web import Answer, Call
from reef.contracts.jobs import ChatJob
from reef.conversation import store
from reef.conversation.store import Message, Session, SessionPage, SessionSummary
from reef.ledger import JobRecord
from reef.personas.store import find_persona


def list_some(call: Call) -> SessionPage:
    """List sessions by last activity; `next`, given as `before`, brings those after them."""
    query: SessionQuery = call.query
    return store.list_sessions(call.services.database, query.query, query.persona_id, query.limit, query.before)


def create(call: Call) -> Answer:
    """Start a conversation; the persona's greeting becomes its first message."""
    draft: SessionDraft = call.body
    with call.services.database.write() as connection:
        persona = find_persona(connection, draft.persona_id)
        session = store.create_session(connection, persona.id)
        if persona.greeting:
            greeting = store.new_message(session.id, "assistant", persona.greeting, persona_id=persona.id)
            store.add_message(connection, greeting)
        said = store.history(connection, session.id)
    location = f"/api/v1/chat/history/{session.id}"
    return Answer(status=201, body=_summary(session, said, []), headers={"Location": location})


def rename(call: Call, session_id: str) -> SessionSummary:
    """Give a session another title."""
    change: SessionChange = call.body
    database = call.services.database
    session = store.rename_session(database, session_id, change.title.strip())
    with database.read() as connection:
        said = store.history(connection, session_id)
    return _summary(session, said, call.services.ledger.active(session_id))


def history(call: Call, session_id: str) -> History:
    """Read a conversation."""
    session, said, active_runs = read_history(call.services, session_id)
    return History(session=session, messages=views(call.services, said), active_runs=active_runs)


def read_history(services: Services, session_id: str) -> tuple[SessionSummary, list[Message], list[ActiveRun]]:
    """A conversation, its messages and the replies that are being written in it. Raises UnknownSession."""
    # the runs first: one that ends between the two queries is then told as active and as a message, never as neither
    active = services.ledger.active(session_id)
    with services.database.read() as connection:
        session = store.find_session(connection, session_id)
        said = store.history(connection, session_id)
    runs = [_active(record) for record in active if record.task == ChatJob.TASK]
    return _summary(session, said, active), said, runs


def delete(call: Call, session_id: str) -> Answer:
    """Delete a conversation and stop what is being written in it."""
    call.services.desk.forget(session_id)
    return Answer(status=204)


def get_message(call: Call, message_id: str) -> MessageView:
    """Read a message, with its text as safe HTML."""
    with call.services.database.read() as connection:
        message = store.find_message(connection, message_id)
    return views(call.services, [message])[0]


def regenerate(call: Call, message_id: str) -> Answer:
    """Answer again: the reply and everything after it leave the conversation."""
    body: AcceptedTurn = accepted_turn(call.services.desk.regenerate(message_id))
    return Answer(status=202, body=body)


def go_on(call: Call, message_id: str) -> Answer:
    """Let the persona go on where its last reply was cut off (`finish_reason` length), in a message of its own."""
    body: AcceptedTurn = accepted_turn(call.services.desk.go_on(message_id))
    return Answer(status=202, body=body)


def edit(call: Call, message_id: str) -> Answer:
    """Replace a user's message; it and everything after it leave the conversation."""
    change: EditRequest = call.body
    return Answer(status=202, body=accepted_turn(call.services.desk.edit(message_id, change.message)))


def views(services: Services, said: list[Message]) -> list[MessageView]:
    """Messages with their HTML."""
    rendered = services.renderer.many(message.content for message in said)
    return [
        MessageView(**msgspec.structs.asdict(message), html=html) for message, html in zip(said, rendered, strict=True)
    ]


def _summary(session: Session, said: list[Message], active: list[JobRecord]) -> SessionSummary:
    return SessionSummary(
        **msgspec.structs.asdict(session),
        messages=len(said),
        preview=said[-1].content[: store.PREVIEW_CHARS_MAX] if said else "",
        active_run_id=active[0].id if active else None,
    )


def _active(record: JobRecord) -> ActiveRun:
    job = msgspec.json.decode(record.payload, type=ChatJob)
    return ActiveRun(
        run_id=record.id, persona_id=job.persona_id, state=record.state, reply_message_id=job.reply_message_id
    )
