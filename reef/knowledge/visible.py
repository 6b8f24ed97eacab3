"""Which passages may be seen: those of indexed documents in the stores that are asked, under the filters of a question.

The only place where this is decided; both indexes only propose.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import msgspec
import sqlalchemy as sa

from reef.knowledge.model import SHARED_STORE
from reef.records.tables import chunks, document_stores, documents, windows


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """What a question is limited to. An empty field limits nothing."""

    document_ids: tuple[str, ...] = ()
    name_prefix: str = ""
    """Of a document's name: a folder of an upload."""
    language: str = ""
    mime_type: str = ""

    @property
    def given(self) -> bool:
        """Whether anything is limited at all."""
        return self != NO_FILTERS


NO_FILTERS = Filters()


def stores_of(persona_id: str) -> tuple[str, ...]:
    """The stores a persona may read: what all share, and its own. Never another's."""
    return (SHARED_STORE, persona_id)


def visible(stores: Sequence[str], filters: Filters = NO_FILTERS) -> sa.ColumnElement[bool]:
    """The condition on a row of `documents`."""
    belongs = sa.exists().where(
        document_stores.c.document_id == documents.c.id, document_stores.c.store.in_(list(stores))
    )
    conditions: list[sa.ColumnElement[bool]] = [documents.c.state == "indexed", belongs]
    if filters.document_ids:
        conditions.append(documents.c.id.in_(filters.document_ids))
    if filters.name_prefix:
        conditions.append(documents.c.name.startswith(filters.name_prefix, autoescape=True))
    if filters.language:
        conditions.append(documents.c.language == filters.language)
    if filters.mime_type:
        conditions.append(documents.c.mime_type == filters.mime_type)
    return sa.and_(*conditions)


def owners(
    connection: sa.Connection, window_ids: Collection[int], condition: sa.ColumnElement[bool]
) -> dict[int, tuple[int, str]]:
    """Chunk and document of those windows whose document meets a condition on `documents`.

    Two queries on purpose: in one, SQLite would begin with all documents in state `indexed`, a hundred times slower.
    """
    rows = connection.execute(
        sa.select(windows.c.id, windows.c.chunk_id, chunks.c.document_id)
        .join(chunks, chunks.c.id == windows.c.chunk_id)
        .where(windows.c.id.in_(list(window_ids)))
    )
    found = {int(row[0]): (int(row[1]), str(row[2])) for row in rows}
    ids = {document_id for _, document_id in found.values()}
    right = set(connection.execute(sa.select(documents.c.id).where(documents.c.id.in_(ids), condition)).scalars())
    return {window_id: owner for window_id, owner in found.items() if owner[1] in right}
