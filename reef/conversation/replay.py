"""Letting an engine read a conversation before its next turn comes, so that its prompt cache holds it by then."""

from __future__ import annotations

import threading

from reef.conversation import store
from reef.conversation.prompt import MEMORIES_TOLD_MAX, build_prompt
from reef.personas.store import UnknownPersona, find_persona, recall
from reef.ports import ChatEngine, ChatRequest, ChatResult
from reef.records.database import Database


def replay(
    database: Database, engine: ChatEngine, session_id: str, tokens_max: int, cancel: threading.Event
) -> ChatResult | None:
    """Read a session's next prompt as far as it is known: all but the message that will come.

    None where there is nothing to read any more. Raises EngineError, EngineRefused.
    """
    with database.read() as connection:
        session = store.look_up_session(connection, session_id)
        if session is None:
            return None
        try:
            persona = find_persona(connection, session.persona_id)
        except UnknownPersona:
            return None
        memories = recall(connection, persona.id, MEMORIES_TOLD_MAX)
        said = store.history(connection, session_id)
    if not said:
        return None
    messages, _ = build_prompt(persona, memories, said, engine, tokens_max)
    request = ChatRequest(messages=messages, tokens_max=1, temperature=0.0, cache_key=session_id)
    return engine.generate(request, lambda text: None, cancel)
