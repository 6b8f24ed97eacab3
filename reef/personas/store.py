"""Reading and writing personas and what they were told to remember."""

from __future__ import annotations

import re
import time
import uuid
from itertools import count
from pathlib import Path
from typing import Annotated, Any

import msgspec
import sqlalchemy as sa
import yaml
from msgspec import Meta

from reef.contracts.frames import NOT_BLANK
from reef.knowledge.model import SHARED_STORE
from reef.records.database import Database
from reef.records.tables import former_personas, memories, personas

PERSONAS_MAX = 1000
MEMORIES_MAX = 10_000
"""Memories of one persona."""
BUILTIN_FILE = Path(__file__).parent / "builtin.yaml"

Name = Annotated[str, Meta(max_length=80, pattern=NOT_BLANK)]
Color = Annotated[str, Meta(pattern=r"^(#[0-9a-fA-F]{6})?$")]
Temperature = Annotated[float, Meta(ge=0.0, le=2.0)]


class UnknownPersona(KeyError):
    """No persona has this id."""


class PersonaLimit(Exception):
    """A limit of personas or memories is reached; the message names it."""


class PersonaDraft(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a user may set."""

    name: Name
    avatar: Annotated[str, Meta(max_length=16)] = ""
    color: Color = ""
    description: Annotated[str, Meta(max_length=500)] = ""
    system_prompt: Annotated[str, Meta(max_length=16_000)] = ""
    model: Annotated[str, Meta(max_length=200)] = ""
    temperature: Temperature = 0.7
    greeting: Annotated[str, Meta(max_length=2_000)] = ""


class Persona(msgspec.Struct, frozen=True, kw_only=True):
    """A persona as stored. `model` "" means the pool's; times are Unix seconds."""

    id: str
    name: str
    avatar: str
    color: str
    description: str
    system_prompt: str
    model: str
    temperature: float
    greeting: str
    mood: str
    builtin: bool
    created_at: float
    updated_at: float


class Memory(msgspec.Struct, frozen=True):
    """Something a persona was told to remember."""

    id: str
    persona_id: str
    text: str
    created_at: float


_COLUMNS = [personas.c[name] for name in Persona.__struct_fields__]
# built once: building a statement costs more than running it
_BY_ID = sa.select(*_COLUMNS).where(personas.c.id == sa.bindparam("persona"))
_RECALL = (
    sa.select(*[memories.c[name] for name in Memory.__struct_fields__])
    .where(memories.c.persona_id == sa.bindparam("persona"))
    .order_by(memories.c.created_at.desc())
    .limit(sa.bindparam("most"))
)


def shipped() -> list[dict[str, Any]]:
    """Rows of the personas that ship; a migration writes them once, so that a deleted one stays deleted."""
    drafts = yaml.safe_load(BUILTIN_FILE.read_text(encoding="utf-8"))
    rows = []
    for fields in drafts:
        persona_id = fields.pop("id")
        draft = msgspec.convert(fields, PersonaDraft)
        rows.append(_row(persona_id, msgspec.structs.asdict(draft), builtin=True))
    return rows


def list_personas(database: Database) -> list[Persona]:
    """All personas, oldest first."""
    with database.read() as connection:
        rows = connection.execute(sa.select(*_COLUMNS).order_by(personas.c.created_at, personas.c.id)).mappings()
        return [Persona(**row) for row in rows]


def get_persona(database: Database, persona_id: str) -> Persona:
    """The persona of that id. Raises UnknownPersona."""
    with database.read() as connection:
        return find_persona(connection, persona_id)


def find_persona(connection: sa.Connection, persona_id: str) -> Persona:
    """The persona of that id, within the caller's transaction. Raises UnknownPersona."""
    row = connection.execute(_BY_ID, {"persona": persona_id}).mappings().first()
    if row is None:
        raise UnknownPersona(persona_id)
    return Persona(**row)


def create_persona(database: Database, draft: PersonaDraft) -> Persona:
    """Store a new persona under an id made from its name, which no persona ever had before. Raises PersonaLimit."""
    with database.write() as connection:
        taken = set(connection.execute(sa.select(personas.c.id)).scalars())
        if len(taken) >= PERSONAS_MAX:
            raise PersonaLimit(f"there are {PERSONAS_MAX} personas already; delete one first")
        taken |= {SHARED_STORE, *connection.execute(sa.select(former_personas.c.id)).scalars()}
        values = _row(_free_id(draft.name, taken), msgspec.structs.asdict(draft), builtin=False)
        connection.execute(personas.insert().values(values))
        return find_persona(connection, values["id"])


def update_persona(database: Database, persona_id: str, draft: PersonaDraft) -> Persona:
    """Replace what a user may set. Raises UnknownPersona."""
    values = msgspec.structs.asdict(draft) | {"updated_at": time.time()}
    with database.write() as connection:
        connection.execute(personas.update().where(personas.c.id == persona_id).values(values))
        return find_persona(connection, persona_id)


def remove_persona(connection: sa.Connection, persona_id: str) -> None:
    """Delete a persona and its memories; its conversations stay readable. Raises UnknownPersona.

    Within the caller's transaction, which also decides what becomes of its documents: reef/knowledge/parting.py.
    """
    if connection.execute(personas.delete().where(personas.c.id == persona_id)).rowcount != 1:
        raise UnknownPersona(persona_id)
    connection.execute(memories.delete().where(memories.c.persona_id == persona_id))
    connection.execute(former_personas.insert().values(id=persona_id, deleted_at=time.time(), in_index=True))


def remember(database: Database, persona_id: str, text: str) -> Memory:
    """Add to a persona's memory. Raises UnknownPersona and PersonaLimit."""
    memory = Memory(uuid.uuid4().hex, persona_id, text, time.time())
    with database.write() as connection:
        find_persona(connection, persona_id)
        held = sa.select(sa.func.count()).select_from(memories).where(memories.c.persona_id == persona_id)
        if (connection.execute(held).scalar() or 0) >= MEMORIES_MAX:
            raise PersonaLimit(f"this persona holds {MEMORIES_MAX} memories, which is the limit")
        connection.execute(memories.insert().values(msgspec.structs.asdict(memory)))
    return memory


def recall(connection: sa.Connection, persona_id: str, limit: int) -> list[Memory]:
    """A persona's latest memories, newest first."""
    rows = connection.execute(_RECALL, {"persona": persona_id, "most": limit}).mappings()
    return [Memory(**row) for row in rows]


def _row(persona_id: str, values: dict[str, Any], *, builtin: bool) -> dict[str, Any]:
    now = time.time()
    return {"mood": "calm", **values, "id": persona_id, "builtin": builtin, "created_at": now, "updated_at": now}


def _free_id(name: str, taken: set[str]) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:40] or "persona"
    if slug not in taken:
        return slug
    return next(f"{slug}-{n}" for n in count(2) if f"{slug}-{n}" not in taken)
