"""Personas and what they were told to remember."""

from __future__ import annotations

from app.api.shapes import MemoryDraft, PersonaList
from app.web import Answer, Call
from reef.personas import store
from reef.personas.store import PersonaDraft


def list_all(call: Call) -> PersonaList:
    """List the personas."""
    return PersonaList(store.list_personas(call.services.database))


def create(call: Call) -> Answer:
    """Create a persona; its id is made from its name."""
    draft: PersonaDraft = call.body
    persona = store.create_persona(call.services.database, draft)
    return Answer(status=201, body=persona, headers={"Location": f"/api/v1/personas/{persona.id}"})


def get(call: Call, persona_id: str) -> store.Persona:
    """Read a persona."""
    return store.get_persona(call.services.database, persona_id)


def update(call: Call, persona_id: str) -> store.Persona:
    """Replace what a user may set of a persona."""
    draft: PersonaDraft = call.body
    return store.update_persona(call.services.database, persona_id, draft)


def delete(call: Call, persona_id: str) -> Answer:
    """Delete a persona and its memories; its conversations stay readable."""
    store.delete_persona(call.services.database, persona_id)
    return Answer(status=204)


def remember(call: Call, persona_id: str) -> Answer:
    """Tell a persona something to remember."""
    draft: MemoryDraft = call.body
    return Answer(status=201, body=store.remember(call.services.database, persona_id, draft.text))
