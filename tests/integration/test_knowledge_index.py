"""Documents go into and out of the vector index: on a real Chroma, with SQLite and with PostgreSQL."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from knowledge_library import add_document, hashed, state_of, window_ids
from services import ChromaServer

from reef.knowledge import consistency
from reef.knowledge.consistency import Differences, compare, rebuild
from reef.knowledge.indexing import LostClaim, assign, clear_replaced, forget, index_pending
from reef.knowledge.vectors import VectorIndex, VectorsRefused, VectorStoreDown, collection_name
from reef.records.database import Database
from reef.records.tables import chunks, documents, personas, windows

PERSONA = "mira"


@pytest.fixture
def database(any_database: Database) -> Database:
    """Records with one persona more than are shipped."""
    with any_database.write() as connection:
        connection.execute(personas.insert().values(id=PERSONA, name="Mira", created_at=0.0, updated_at=0.0))
    return any_database


@pytest.fixture
def patient_vectors(own_chroma: ChromaServer) -> Iterator[VectorIndex]:
    """The index as the worker that writes has it: it waits out a restart."""
    index = VectorIndex(own_chroma.url)
    yield index
    index.close()


@pytest.fixture
def own_vectors(own_chroma: ChromaServer) -> Iterator[VectorIndex]:
    """The index on a server that may be killed."""
    index = VectorIndex(own_chroma.url, patient=False)
    yield index
    index.close()


def found(vectors: VectorIndex, store: str, text: str, k: int = 3) -> list[int]:
    """The windows nearest to a text."""
    return [window_id for window_id, _ in vectors.query([store], hashed(text).tobytes(), k)]


def test_similarity_is_the_cosine_and_stores_are_apart(vectors: VectorIndex) -> None:
    """A store sees its own windows only; a query of two stores gives the best of both."""
    texts = ["red coral", "blue whale", "green turtle"]
    raw = [hashed(text).tobytes() for text in texts]
    vectors.upsert("one:1", [1, 2], raw[:2], [{"language": "en"}, {"language": "de"}])
    vectors.upsert("two", [3], raw[2:], [{"language": "en"}])
    wanted = hashed("green turtle").tobytes()
    assert vectors.query(["two", "one:1"], wanted, 1)[0] == (3, pytest.approx(1.0, abs=1e-5))
    near = dict(vectors.query(["one:1"], wanted, 5))
    assert near == {
        1: pytest.approx(float(hashed(texts[0]) @ hashed(texts[2])), abs=1e-4),
        2: pytest.approx(float(hashed(texts[1]) @ hashed(texts[2])), abs=1e-4),
    }
    assert vectors.query(["one:1"], wanted, 5, {"language": "de"})[0][0] == 2
    assert vectors.query(["nobody"], wanted, 5) == []
    assert (vectors.count("one:1"), vectors.count("nobody")) == (2, 0)
    assert sorted(vectors.stores()) == ["one:1", "two"]


def test_names_that_chroma_would_refuse(vectors: VectorIndex) -> None:
    """Any persona id is a store; two ids never share a collection."""
    ids = ["a", "a.", "a:b", "a_b", "-", "ü" * 64, "A"]
    assert len({collection_name(store) for store in ids}) == len(ids)
    for number, store in enumerate(ids, start=1):
        vectors.upsert(store, [number], [hashed("x").tobytes()], [{"language": ""}])
        assert vectors.count(store) == 1
    assert sorted(vectors.stores()) == sorted(ids)


def test_vectors_of_another_length_are_refused_in_words(vectors: VectorIndex) -> None:
    """A second model's vectors do not get in beside the first's."""
    vectors.upsert("shared", [1], [hashed("x").tobytes()], [{"language": ""}])
    with pytest.raises(VectorsRefused, match="dimension"):
        vectors.upsert("shared", [2], [hashed("x").tobytes()[:16]], [{"language": ""}])


def test_a_collection_made_anew_by_another_is_found(vectors: VectorIndex, shared_chroma: ChromaServer) -> None:
    """A process that remembers a dropped collection's id goes on with the new one."""
    vectors.upsert("shared", [1], [hashed("x").tobytes()], [{"language": ""}])
    other = VectorIndex(shared_chroma.url)
    other.drop("shared")
    assert found(vectors, "shared", "x") == []
    other.upsert("shared", [2], [hashed("x").tobytes()], [{"language": ""}])
    assert found(vectors, "shared", "x") == [2]
    other.close()


def test_pending_documents_become_visible(database: Database, vectors: VectorIndex) -> None:
    """What has all its vectors is stored in each of its stores and shown; the rest waits."""
    both = add_document(database, ["herring", "salmon"], stores=["shared", PERSONA])
    bare = add_document(database, ["trout"], embedded=False)
    done = index_pending(database, vectors, 10)
    assert (done.documents, done.windows, done.replaced) == (1, 2, 0)
    assert (state_of(database, both), state_of(database, bare)) == ("indexed", "indexing")
    for store in ("shared", PERSONA):
        assert found(vectors, store, "salmon")[0] == window_ids(database, both)[1]
    again = index_pending(database, vectors, 10)
    assert again.documents == 0


def test_many_documents_and_a_large_one(
    database: Database, vectors: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups and batches have seams; nothing is lost at them."""
    monkeypatch.setattr("reef.knowledge.indexing.GROUP_WINDOWS", 7)
    monkeypatch.setattr("reef.knowledge.indexing.BATCH_MAX", 5)
    monkeypatch.setattr("reef.knowledge.vectors.BATCH_MAX", 3)
    monkeypatch.setattr(consistency, "BATCH_MAX", 4)
    sizes = [1, 2, 3, 23, 1, 7]
    ids = [add_document(database, [f"fish {n} {part}" for part in range(size)]) for n, size in enumerate(sizes)]
    assert index_pending(database, vectors, 4).documents == 4
    assert index_pending(database, vectors, 4).documents == 2
    assert {state_of(database, document_id) for document_id in ids} == {"indexed"}
    assert vectors.count("shared") == sum(sizes)
    assert compare(database, vectors, repair=False).agree


def test_only_documents_of_the_job(database: Database, vectors: VectorIndex) -> None:
    """A job indexes its own documents and leaves another's."""
    mine, other = add_document(database, ["a1"]), add_document(database, ["b1"])
    index_pending(database, vectors, 10, document_ids=[mine])
    assert (state_of(database, mine), state_of(database, other)) == ("indexed", "indexing")


def test_a_lost_claim_writes_nothing(database: Database, vectors: VectorIndex) -> None:
    """A worker whose job was given to another makes no document visible."""
    document_id = add_document(database, ["eel"])
    with pytest.raises(LostClaim):
        index_pending(database, vectors, 10, guard=lambda _: False)
    assert state_of(database, document_id) == "indexing"
    index_pending(database, vectors, 10)
    assert vectors.count("shared") == 1, "the second worker stored it again under the same id"


def test_a_newer_document_takes_the_place_of_its_namesake(database: Database, vectors: VectorIndex) -> None:
    """In one step the old one is gone and the new one there; its entries and passages follow."""
    old = add_document(database, ["version one"], name="plan.md")
    elsewhere = add_document(database, ["of mira"], name="plan.md", stores=[PERSONA])
    index_pending(database, vectors, 10)
    gone = window_ids(database, old)
    new = add_document(database, ["version two"], name="plan.md")
    assert index_pending(database, vectors, 10).replaced == 1
    states = [state_of(database, one) for one in (old, new, elsewhere)]
    assert states == ["replaced", "indexed", "indexed"]
    assert vectors.present("shared", gone) == set()
    assert window_ids(database, old) == [], "its passages are no longer kept"


def test_a_late_older_document_does_not_come_back(database: Database, vectors: VectorIndex) -> None:
    """Of two uploads of one name the newer stays, whichever was ready first."""
    late = add_document(database, ["old text"], name="plan.md", state="embedding")
    new = add_document(database, ["new text"], name="plan.md")
    index_pending(database, vectors, 10)
    with database.write() as connection:
        connection.execute(documents.update().where(documents.c.id == late).values(state="indexing"))
    index_pending(database, vectors, 10)
    assert (state_of(database, late), state_of(database, new)) == ("replaced", "indexed")
    assert vectors.count("shared") == 1


def test_a_namesake_keeps_the_stores_that_the_new_one_is_not_in(database: Database, vectors: VectorIndex) -> None:
    """An upload for one persona does not take the document away from the others."""
    old = add_document(database, ["for all"], name="plan.md", stores=["shared", PERSONA])
    index_pending(database, vectors, 10)
    add_document(database, ["for mira"], name="plan.md", stores=[PERSONA])
    assert index_pending(database, vectors, 10).replaced == 0
    assert state_of(database, old) == "indexed"
    assert (vectors.count("shared"), vectors.count(PERSONA)) == (1, 1)
    assert compare(database, vectors, repair=False).agree


def test_a_document_that_is_deleted_while_it_is_stored(database: Database, vectors: VectorIndex) -> None:
    """Deleted between the storing and the showing: it does not appear, and its entries go."""
    document_id = add_document(database, ["ghost"])

    def deleted(connection: sa.Connection) -> bool:
        connection.execute(documents.delete().where(documents.c.id == document_id))
        return True

    assert index_pending(database, vectors, 10, guard=deleted).documents == 0
    assert vectors.count("shared") == 0


def test_forgetting(database: Database, vectors: VectorIndex) -> None:
    """A deleted document is gone from the records and from every store."""
    document_id = add_document(database, ["secret"], stores=["shared", PERSONA])
    index_pending(database, vectors, 10)
    assert forget(database, vectors, document_id)
    assert (vectors.count("shared"), vectors.count(PERSONA)) == (0, 0)
    with database.read() as connection:
        assert connection.execute(sa.select(sa.func.count()).select_from(windows)).scalar() == 0
    assert not forget(database, vectors, document_id)


def test_assigning(database: Database, vectors: VectorIndex) -> None:
    """A document moves between stores, and is found in exactly those it was put into."""
    document_id = add_document(database, ["map"])
    index_pending(database, vectors, 10)
    assert assign(database, vectors, document_id, [PERSONA])
    assert (found(vectors, "shared", "map"), found(vectors, PERSONA, "map")) == ([], window_ids(database, document_id))
    assert not assign(database, vectors, "nobody", [PERSONA])
    assert compare(database, vectors, repair=False).agree


def test_the_checker_finds_and_repairs_both_ways(database: Database, vectors: VectorIndex) -> None:
    """Missing entries are made from the records, surplus ones and dead stores go, unembedded documents wait again."""
    kept = add_document(database, ["one", "two", "three"])
    bare = add_document(database, ["four"])
    index_pending(database, vectors, 10)
    vectors.delete("shared", window_ids(database, kept)[:2])
    vectors.upsert("shared", [900_001], [hashed("stranger").tobytes()], [{"language": ""}])
    vectors.upsert("nobody-any-more", [5], [hashed("left").tobytes()], [{"language": ""}])
    with database.write() as connection:
        of_bare = sa.select(chunks.c.id).where(chunks.c.document_id == bare)
        connection.execute(windows.update().where(windows.c.chunk_id.in_(of_bare)).values(vector=None))
    seen = compare(database, vectors, repair=False)
    assert (seen.missing, seen.extra, seen.dropped, seen.unembedded) == (2, 1, 1, 1)
    repaired = compare(database, vectors, repair=True)
    # the document that went back is invisible now, and so its entry is surplus
    assert (repaired.missing, repaired.extra, repaired.dropped, repaired.unembedded) == (2, 2, 1, 1)
    assert state_of(database, bare) == "embedding"
    assert compare(database, vectors, repair=False).agree
    assert vectors.stores() == ["shared"]


def test_the_checker_leaves_alone_what_is_being_indexed(database: Database, vectors: VectorIndex) -> None:
    """Entries of a document that is about to be shown are no surplus."""
    document_id = add_document(database, ["soon"])
    vectors.upsert("shared", window_ids(database, document_id), [hashed("soon").tobytes()], [{"language": ""}])
    assert compare(database, vectors, repair=True).extra == 0
    assert vectors.count("shared") == 1


def test_another_model_s_documents_wait_to_be_embedded(database: Database, vectors: VectorIndex) -> None:
    """After a change of the model the checker sends its documents back."""
    document_id = add_document(database, ["old model"])
    index_pending(database, vectors, 10)
    assert compare(database, vectors, repair=False, model="hashed").unembedded == 0
    assert compare(database, vectors, repair=True, model="another").unembedded == 1
    assert state_of(database, document_id) == "embedding"


def test_everything_is_made_anew_from_the_records(database: Database, vectors: VectorIndex) -> None:
    """The index may be lost altogether."""
    ids = [add_document(database, [f"a {n}", f"b {n}"], stores=["shared", PERSONA]) for n in range(3)]
    index_pending(database, vectors, 10)
    for store in vectors.stores():
        vectors.drop(store)
    assert compare(database, vectors, repair=False).missing == 12
    assert rebuild(database, vectors) == 12
    seen = compare(database, vectors, repair=False)
    assert seen == Differences(stores=seen.stores, compared=12)
    assert found(vectors, PERSONA, "b 2")[0] == window_ids(database, ids[2])[1]


def test_a_silent_store_is_told_within_seconds(
    database: Database, own_chroma: ChromaServer, own_vectors: VectorIndex
) -> None:
    """Without its server a question fails in words; forgetting works, and the checker finds what is left."""
    document_id = add_document(database, ["lost"])
    index_pending(database, own_vectors, 10)
    own_chroma.stop(signal.SIGKILL)
    with pytest.raises(VectorStoreDown, match="coral-reef status"):
        found(own_vectors, "shared", "lost")
    waiting = add_document(database, ["later"])
    with pytest.raises(VectorStoreDown):
        index_pending(database, own_vectors, 10)
    assert state_of(database, waiting) == "indexing"
    assert forget(database, own_vectors, document_id)
    own_chroma.start()
    assert index_pending(database, own_vectors, 10).documents == 1
    assert compare(database, own_vectors, repair=True).extra == 1
    assert compare(database, own_vectors, repair=False).agree


def test_replaced_documents_are_cleared_until_it_is_done(
    database: Database, own_chroma: ChromaServer, own_vectors: VectorIndex
) -> None:
    """A crash after the replacement leaves the removal to the next round."""
    old = add_document(database, ["v1"], name="plan.md")
    index_pending(database, own_vectors, 10)
    with database.write() as connection:
        connection.execute(documents.update().values(state="replaced"))
    own_chroma.stop(signal.SIGKILL)
    with pytest.raises(VectorStoreDown):
        clear_replaced(database, own_vectors, 10)
    assert window_ids(database, old) != []
    own_chroma.start()
    assert clear_replaced(database, own_vectors, 10) == 1
    assert (own_vectors.count("shared"), window_ids(database, old)) == (0, [])


def test_chroma_killed_in_mid_write(database: Database, own_chroma: ChromaServer, patient_vectors: VectorIndex) -> None:
    """kill -9 while documents are being stored: the writer waits out the restart, and nothing is lost or doubled."""
    ids = [add_document(database, [f"shell{n} part{part}" for part in range(5)]) for n in range(60)]
    stored = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        def shown(_: sa.Connection) -> bool:
            stored.set()
            return True

        try:
            while index_pending(database, patient_vectors, 3, guard=shown).documents:
                pass
        except BaseException as error:
            failures.append(error)

    writer = threading.Thread(target=write)
    writer.start()
    for _ in range(3):
        stored.clear()
        stored.wait(20)
        own_chroma.stop(signal.SIGKILL)
        own_chroma.start()
    writer.join(60)
    assert failures == []
    assert {state_of(database, document_id) for document_id in ids} == {"indexed"}
    seen = compare(database, patient_vectors, repair=True)
    assert (seen.missing, seen.extra) == (0, 0), "an acknowledged entry was lost"
    for n in (0, 30, 59):
        assert found(patient_vectors, "shared", f"shell{n} part4", 1) == [window_ids(database, ids[n])[4]]
