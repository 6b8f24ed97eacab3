"""Personas and what they were told to remember."""

from __future__ import annotations

import msgspec

from app.api.shapes import MemoryDraft, PersonaEnd, PersonaList, PersonaView
from app.services import Services
from app.web import Answer, Call
from reef.contracts.jobs import ChatJob
from reef.conversation.reply import plain_name
from reef.knowledge.parting import delete_persona
from reef.models.adapters import parts_of
from reef.personas import store
from reef.personas.store import Persona, PersonaDraft

CHAT_FORMATS = frozenset({"gguf", "remote", "simulated"})
"""Of models that can answer."""
BYTES_PER_TOKEN = 4
"""An estimate: no model is asked here, and the one that will read it may be another."""


def list_all(call: Call) -> PersonaList:
    """List the personas."""
    return PersonaList(store.list_personas(call.services.database))


def create(call: Call) -> Answer:
    """Create a persona; its id is made from its name. `warnings` say what may not work as it is set up."""
    draft: PersonaDraft = call.body
    persona = store.create_persona(call.services.database, draft)
    body = _view(call.services, persona)
    return Answer(status=201, body=body, headers={"Location": f"/api/v1/personas/{persona.id}"})


def get(call: Call, persona_id: str) -> PersonaView:
    """Read a persona."""
    return _view(call.services, store.get_persona(call.services.database, persona_id))


def update(call: Call, persona_id: str) -> PersonaView:
    """Replace what a user may set of a persona."""
    draft: PersonaDraft = call.body
    return _view(call.services, store.update_persona(call.services.database, persona_id, draft))


def delete(call: Call, persona_id: str) -> Answer:
    """Delete a persona and its memories; its conversations stay readable, and its id is never given again.

    Documents that no other persona reads are kept, for nobody until they are assigned; `documents=delete` deletes them.
    """
    query: PersonaEnd = call.query
    delete_persona(call.services.uploads.flow, persona_id, query.documents)
    return Answer(status=204)


def remember(call: Call, persona_id: str) -> Answer:
    """Tell a persona something to remember."""
    draft: MemoryDraft = call.body
    return Answer(status=201, body=store.remember(call.services.database, persona_id, draft.text))


def _view(services: Services, persona: Persona) -> PersonaView:
    found = [_about_model(services, persona.model), _about_length(services, persona.system_prompt)]
    return PersonaView(**msgspec.structs.asdict(persona), warnings=[sentence for sentence in found if sentence])


def _about_model(services: Services, model: str) -> str:
    if not model:
        return ""
    known = {plain_name(pool.model) for pool in services.topology.pools.values()}
    known |= {view.name.lower() for view in services.models.overview().models if view.format in CHAT_FORMATS}
    if plain_name(model) in known or plain_name(parts_of(model)[0]) in known:
        return ""
    return f"There is no chat model {model} here or in the catalogue: until it comes, the one that is loaded answers."


def _about_length(services: Services, instructions: str) -> str:
    pool = services.topology.pools.get(ChatJob.POOL)
    tokens = len(instructions.encode()) // BYTES_PER_TOKEN
    if pool is None or tokens <= pool.context_tokens // 2:
        return ""
    return (
        f"The instructions have about {tokens:,} tokens; the model reads {pool.context_tokens:,} at once, "
        "the conversation among them: little room is left for it, or none."
    )
