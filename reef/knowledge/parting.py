"""A persona leaves: what becomes of its documents.

Those that others read too stay with these. Those that it alone read are for nobody from then on, in the list but found
by no question, until somebody assigns or deletes them; or they go with it. Its store leaves the vector index with the
next index job.
"""

from __future__ import annotations

import time
from typing import Literal

import msgspec
import sqlalchemy as sa

from reef.knowledge import changes
from reef.knowledge.flow import Flow
from reef.knowledge.progress import Change
from reef.personas.store import remove_persona
from reef.records.tables import document_stores, documents, uploads

Fate = Literal["keep", "delete"]


def delete_persona(flow: Flow, persona_id: str, own_documents: Fate = "keep") -> None:
    """Delete a persona, its memories and its store. Raises UnknownPersona."""
    now = time.time()
    with flow.database.write() as connection:
        changes.alone(connection)
        remove_persona(connection, persona_id)
        _leave_uploads(connection, persona_id)
        left = _leave_store(connection, persona_id)
        told: list[Change] = changes.leave(connection, left, "deleted", now) if own_documents == "delete" else []
    for change in told:
        flow.originals.discard(change.document_id)
    flow.progress.tell(told)
    flow.advance()


def _leave_store(connection: sa.Connection, persona_id: str) -> list[str]:
    """Empty the store; gives the documents that were in no other."""
    membership = document_stores.alias()
    elsewhere = sa.exists().where(
        membership.c.document_id == document_stores.c.document_id, membership.c.store != persona_id
    )
    query = (
        sa.select(documents.c.id)
        .join(document_stores, document_stores.c.document_id == documents.c.id)
        .where(document_stores.c.store == persona_id, ~elsewhere, documents.c.state != "deleted")
    )
    alone = list(connection.execute(query).scalars())
    connection.execute(document_stores.delete().where(document_stores.c.store == persona_id))
    return alone


def _leave_uploads(connection: sa.Connection, persona_id: str) -> None:
    """Files that are still to come do not go to a store that is gone."""
    quoted = msgspec.json.encode(persona_id).decode()
    query = sa.select(uploads.c.id, uploads.c.stores).where(uploads.c.stores.contains(quoted, autoescape=True))
    for row in connection.execute(query).all():
        stores = [store for store in msgspec.json.decode(row.stores, type=list[str]) if store != persona_id]
        values = {"stores": msgspec.json.encode(stores).decode()}
        connection.execute(uploads.update().where(uploads.c.id == row.id).values(values))
