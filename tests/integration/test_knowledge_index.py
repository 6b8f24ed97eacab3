"""Documents go into and out of the vector index: on a real Chroma, with SQLite and with PostgreSQL."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator

import pytest
import sqlalchemy as sa
from knowledge_library import add_document, hashed, index_waiting, move, state_of, window_ids
from services import ChromaServer

from reef.knowledge import consistency
from reef.knowledge.consistency import Differences, compare, rebuild
from reef.knowledge.indexing import PassageIndex
from reef.knowledge.vectors import VectorIndex, VectorsRefused, VectorStoreDown, collection_name
from reef.ports import EngineError
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


def test_many_documents_and_a_large_one(
    database: Database, vectors: VectorIndex, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Groups and batches have seams; nothing is lost at them."""
    monkeypatch.setattr("reef.knowledge.indexing.BATCH_MAX", 5)
    monkeypatch.setattr("reef.knowledge.vectors.BATCH_MAX", 3)
    monkeypatch.setattr(consistency, "BATCH_MAX", 4)
    sizes = [1, 2, 3, 23, 1, 7]
    ids = [add_document(database, [f"fish {n} {part}" for part in range(size)]) for n, size in enumerate(sizes)]
    assert len(index_waiting(database, vectors, 4)) == 4
    assert len(index_waiting(database, vectors, 4)) == 2
    assert {state_of(database, document_id) for document_id in ids} == {"indexed"}
    assert vectors.count("shared") == sum(sizes)
    assert compare(database, vectors, repair=False).agree


def test_the_checker_finds_and_repairs_both_ways(database: Database, vectors: VectorIndex) -> None:
    """Missing entries are made from the records, surplus ones and dead stores go, unembedded documents wait again."""
    kept = add_document(database, ["one", "two", "three"])
    bare = add_document(database, ["four"])
    index_waiting(database, vectors)
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
    index_waiting(database, vectors)
    assert compare(database, vectors, repair=False, model="hashed").unembedded == 0
    assert compare(database, vectors, repair=True, model="another").unembedded == 1
    assert state_of(database, document_id) == "embedding"


def test_everything_is_made_anew_from_the_records(database: Database, vectors: VectorIndex) -> None:
    """The index may be lost altogether."""
    ids = [add_document(database, [f"a {n}", f"b {n}"], stores=["shared", PERSONA]) for n in range(3)]
    index_waiting(database, vectors)
    for store in vectors.stores():
        vectors.drop(store)
    assert compare(database, vectors, repair=False).missing == 12
    assert rebuild(database, vectors) == 12
    seen = compare(database, vectors, repair=False)
    assert seen == Differences(stores=seen.stores, compared=12)
    assert found(vectors, PERSONA, "b 2")[0] == window_ids(database, ids[2])[1]


def test_a_document_is_found_in_each_of_its_stores_and_nowhere_else(database: Database, vectors: VectorIndex) -> None:
    """Putting it again after it was given to other stores takes it out of the old ones; dropping, out of all."""
    document_id = add_document(database, ["herring", "salmon"], stores=["shared", PERSONA])
    add_document(database, ["trout"], embedded=False)
    assert index_waiting(database, vectors) == [document_id]
    for store in ("shared", PERSONA):
        assert found(vectors, store, "salmon")[0] == window_ids(database, document_id)[1]
    move(database, vectors, document_id, [PERSONA])
    assert (found(vectors, "shared", "salmon"), len(found(vectors, PERSONA, "salmon"))) == ([], 2)
    assert compare(database, vectors, repair=False).agree
    PassageIndex(database, vectors).drop([document_id], lambda: None)
    assert (vectors.count("shared"), vectors.count(PERSONA)) == (0, 0)


def test_a_silent_store_is_told_within_seconds(
    database: Database, own_chroma: ChromaServer, own_vectors: VectorIndex
) -> None:
    """Without its server a question fails in words; what was deleted meanwhile is found by the checker."""
    document_id = add_document(database, ["lost"])
    index_waiting(database, own_vectors)
    own_chroma.stop(signal.SIGKILL)
    with pytest.raises(VectorStoreDown, match="coral-reef status"):
        found(own_vectors, "shared", "lost")
    add_document(database, ["later"])
    with pytest.raises(EngineError, match="does not answer"):
        index_waiting(database, own_vectors)
    with database.write() as connection:
        connection.execute(documents.delete().where(documents.c.id == document_id))
    own_chroma.start()
    assert len(index_waiting(database, own_vectors)) == 1
    assert compare(database, own_vectors, repair=True).extra == 1
    assert compare(database, own_vectors, repair=False).agree


def test_chroma_killed_in_mid_write(database: Database, own_chroma: ChromaServer, patient_vectors: VectorIndex) -> None:
    """kill -9 while documents are being stored: the writer waits out the restart, and nothing is lost or doubled."""
    ids = [add_document(database, [f"shell{n} part{part}" for part in range(5)]) for n in range(60)]
    stored = threading.Event()
    failures: list[BaseException] = []

    def write() -> None:
        try:
            while index_waiting(database, patient_vectors, 3):
                stored.set()
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
