"""A persona is deleted: its documents, its store in the index, and its id, which nobody is given again."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from knowledge_library import add_document, hashed, index_waiting
from workshop import Workshop, ask

from reef.contracts.jobs import IndexJob
from reef.knowledge import documents as documents_of
from reef.knowledge.consistency import compare
from reef.knowledge.flow import STORES_TO_PURGE
from reef.knowledge.parting import Fate, delete_persona
from reef.knowledge.vectors import VectorIndex
from reef.personas.store import PersonaDraft, UnknownPersona, create_persona, remember
from reef.records.database import Database
from reef.records.tables import document_stores, memories


def stores(shop: Workshop) -> dict[str, list[str]]:
    return {document.name: document.stores for document in shop.documents()}


@pytest.mark.parametrize(("fate", "left"), [("keep", {"diary.txt", "both.txt"}), ("delete", {"both.txt"})])
def test_nobody_inherits_what_a_persona_read(shop: Workshop, fate: Fate, left: set[str]) -> None:
    """Its own documents are for nobody, or gone; a new persona of its name is another one and finds nothing."""
    former = create_persona(shop.database, PersonaDraft(name="Temp"))
    remember(shop.database, former.id, "The cat is called Minka.")
    shop.add({"diary.txt": "the diary speaks of pearls"}, stores=(former.id,))
    shop.add({"both.txt": "the ledger speaks of ropes"}, stores=(former.id, "alice"))
    shop.run_all()
    assert ask(shop, "diary pearls", "shared", former.id) == ["diary.txt"]
    delete_persona(shop.flow, former.id, fate)
    shop.run_all(IndexJob)
    assert set(stores(shop)) == left
    assert stores(shop)["both.txt"] == ["alice"]
    assert ask(shop, "ropes", "alice") == ["both.txt"]
    assert set(shop.states(store=documents_of.NOBODY)) == left - {"both.txt"}
    heir = create_persona(shop.database, PersonaDraft(name="Temp"))
    assert (former.id, heir.id) == ("temp", "temp-2")
    assert ask(shop, "diary pearls", "shared", heir.id, former.id) == []
    with shop.database.read() as connection:
        assert connection.execute(sa.select(memories).where(memories.c.persona_id == former.id)).all() == []
        assert connection.execute(STORES_TO_PURGE).all() == []
    with pytest.raises(UnknownPersona):
        delete_persona(shop.flow, former.id)


def test_files_that_come_later_go_to_nobody(shop: Workshop) -> None:
    """An upload that was to a persona goes on without it; what comes is listed, and can be assigned."""
    former = create_persona(shop.database, PersonaDraft(name="Temp"))
    upload = shop.uploads.create("late", [former.id])
    delete_persona(shop.flow, former.id)
    document_id = shop.uploads.begin_file(upload.id, "late.txt", 1)
    assert documents_of.get_document(shop.flow, document_id).stores == []
    assert documents_of.set_stores(shop.flow, document_id, ["alice"]).stores == ["alice"]


def test_a_persona_may_not_be_called_as_what_all_share(shop: Workshop) -> None:
    """Its store would be everybody's."""
    assert create_persona(shop.database, PersonaDraft(name="Shared")).id == "shared-2"


def test_the_checker_mends_what_a_persona_left(any_database: Database, vectors: VectorIndex) -> None:
    """A membership in a store that is gone is told, and taken away with the collection."""
    document_id = add_document(any_database, ["pearls"], stores=["gone", "shared"])
    index_waiting(any_database, vectors)
    assert vectors.query(["gone"], hashed("pearls").tobytes(), 1)
    seen = compare(any_database, vectors, repair=False)
    assert (seen.orphaned, seen.dropped, seen.agree) == (1, 1, False)
    assert compare(any_database, vectors, repair=True).orphaned == 1
    assert compare(any_database, vectors, repair=False).agree
    assert "gone" not in vectors.stores()
    with any_database.read() as connection:
        query = sa.select(document_stores.c.store).where(document_stores.c.document_id == document_id)
        assert connection.execute(query).scalars().all() == ["shared"]
