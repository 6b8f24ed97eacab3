"""Questions to documents: by meaning, by words, fused; only what the asker may see; nothing where nothing fits."""

from __future__ import annotations

import json
import signal
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import sqlalchemy as sa
from knowledge_library import add_document, hashed, index_waiting, move
from services import ChromaServer

from reef.knowledge import retrieval
from reef.knowledge.model import Passage
from reef.knowledge.retrieval import Retriever
from reef.knowledge.vectors import VectorIndex, VectorStoreDown
from reef.knowledge.visible import Filters, stores_of
from reef.records.database import Database
from reef.records.tables import chunks, documents, windows
from reef.settings import Settings
from workers.knowledge import make_reranking

LIBRARY = {
    "harbour.md": "Boats enter the harbour when the tide is high and the green light burns.",
    "kitchen.md": "Bake the bread for forty minutes until the crust is brown.",
    "errors.md": "Error E-4711 means that the pump has no water.",
    "whales.md": "Whales sing songs that travel for hundreds of kilometres through the ocean.",
}
ALL = ("shared",)


@pytest.fixture
def retriever(any_database: Database, vectors: VectorIndex) -> Retriever:
    """A library of four documents, and who finds things in it."""
    for name, text in LIBRARY.items():
        add_document(any_database, [text], name=name)
    index_waiting(any_database, vectors)
    return Retriever(any_database, vectors, hashed)


def names(passages: list[Passage]) -> list[str]:
    """Names of their documents."""
    return [passage.name for passage in passages]


@pytest.mark.parametrize("mode", ["hybrid", "vector", "text"])
def test_the_passage_that_answers_comes_first(retriever: Retriever, mode: retrieval.Mode) -> None:
    """With its place, its text, and how it was found."""
    first = retriever.retrieve("when may boats enter the harbour", ALL, mode=mode)[0]
    assert (first.name, first.text, first.page_first) == ("harbour.md", LIBRARY["harbour.md"], 1)
    assert (first.start, first.end) == (0, len(first.text))
    by_words = "no. 1 by words, has every word"
    ways = {"hybrid": f"no. 1 by meaning, {by_words}", "vector": "no. 1 by meaning", "text": by_words}
    assert first.why == ways[mode]
    assert (first.similarity is None) == (mode == "text")
    assert first.score == {"hybrid": 1.0, "vector": 0.3333, "text": 0.6667}[mode]


def test_nothing_relevant_is_an_answer(retriever: Retriever) -> None:
    """A question about something else finds nothing, though some window is always the nearest."""
    assert retriever.retrieve("quarterly tax declaration deadline", ALL) == []
    assert retriever.retrieve("quarterly tax declaration deadline", ALL, similarity_min=-1.0) != []
    assert retriever.retrieve("", ALL) == []
    assert retriever.retrieve("😀", ALL) == []


def test_an_exact_code_is_found_though_its_meaning_is_far(retriever: Retriever) -> None:
    """A passage with every word of the question counts however far its vector is."""
    far = retriever.retrieve("E-4711", ALL, similarity_min=0.99)
    assert names(far) == ["errors.md"]
    assert retriever.retrieve("E-4711 zebra", ALL, similarity_min=0.99) == []


def test_a_persona_reads_its_own_and_what_all_share(any_database: Database, vectors: VectorIndex) -> None:
    """Never another's, by no mode and no filter."""
    for store in ("shared", "alice", "bob"):
        add_document(any_database, [f"the treasure of {store} is buried here"], name=store, stores=[store])
    index_waiting(any_database, vectors)
    finder = Retriever(any_database, vectors, hashed)
    for mode in ("hybrid", "vector", "text"):
        for filters in (Filters(), Filters(name_prefix="b"), Filters(language="")):
            seen = set(names(finder.retrieve("treasure of bob", stores_of("alice"), mode=mode, filters=filters)))
            assert seen <= {"shared", "alice"}, (mode, filters)
    assert set(names(finder.retrieve("treasure", stores_of("alice")))) == {"shared", "alice"}


def test_what_became_invisible_is_not_found(retriever: Retriever, any_database: Database, vectors: VectorIndex) -> None:
    """The records decide at once, whatever the vector index still has."""
    question = "boats harbour tide"
    with any_database.read() as connection:
        query = sa.select(documents.c.id).where(documents.c.name == "harbour.md")
        document_id = connection.execute(query).scalar_one()
    with any_database.write() as connection:
        connection.execute(documents.update().where(documents.c.id == document_id).values(state="replaced"))
    assert "harbour.md" not in names(retriever.retrieve(question, ALL))
    with any_database.write() as connection:
        connection.execute(documents.update().where(documents.c.id == document_id).values(state="indexed"))
    move(any_database, vectors, document_id, ["alice"])
    assert "harbour.md" not in names(retriever.retrieve(question, ALL))
    assert "harbour.md" in names(retriever.retrieve(question, stores_of("alice")))
    with any_database.write() as connection:
        connection.execute(documents.delete().where(documents.c.id == document_id))
    assert "harbour.md" not in names(retriever.retrieve(question, stores_of("alice")))


@pytest.mark.parametrize("exact_max", [5_000, 0])
def test_filters(any_database: Database, vectors: VectorIndex, monkeypatch: pytest.MonkeyPatch, exact_max: int) -> None:
    """Every filter limits every mode, whether the records answer or the index does."""
    monkeypatch.setattr(retrieval, "EXACT_WINDOWS_MAX", exact_max)
    ids = {}
    for name, language, kind in (("a/1", "en", "text/plain"), ("a/2", "de", "text/html"), ("b/3", "en", "text/html")):
        text = f"the anchor chain of ship {name}"
        ids[name] = add_document(any_database, [text], name=name, language=language, mime_type=kind)
    index_waiting(any_database, vectors)
    finder = Retriever(any_database, vectors, hashed)
    wanted = {
        Filters(language="en"): {"a/1", "b/3"},
        Filters(mime_type="text/html"): {"a/2", "b/3"},
        Filters(language="en", mime_type="text/html"): {"b/3"},
        Filters(name_prefix="a/"): {"a/1", "a/2"},
        Filters(document_ids=(ids["a/2"],)): {"a/2"},
        Filters(document_ids=(ids["a/2"],), language="en"): set(),
    }
    for filters, expected in wanted.items():
        for mode in ("hybrid", "vector", "text"):
            assert set(names(finder.retrieve("anchor chain", ALL, filters=filters, mode=mode))) == expected


def test_overlapping_passages_are_one(any_database: Database, vectors: VectorIndex) -> None:
    """Of two chunks of a document that are mostly the same text, the better one is told."""
    document_id = add_document(any_database, ["the reef at low tide", "the reef at low tide in winter", "reef fish"])
    with any_database.write() as connection:
        places = ((0, 100), (20, 110), (100, 150))
        for number, (start, end) in enumerate(places):
            here = sa.and_(chunks.c.document_id == document_id, chunks.c.number == number)
            connection.execute(chunks.update().where(here).values(start=start, end=end))
    index_waiting(any_database, vectors)
    told = Retriever(any_database, vectors, hashed).retrieve("the reef at low tide", ALL)
    assert [(passage.start, passage.end) for passage in told] == [(0, 100), (100, 150)]


def test_copies_are_told_once(any_database: Database, vectors: VectorIndex) -> None:
    """The same text in five documents is one passage."""
    for _ in range(5):
        add_document(any_database, ["tide tables of the northern harbour"])
    index_waiting(any_database, vectors)
    assert len(Retriever(any_database, vectors, hashed).retrieve("tide tables of the harbour", ALL)) == 1


def test_repetitions_give_way_to_something_else(any_database: Database, vectors: VectorIndex) -> None:
    """Of two passages that nearly say the same, the second comes after one that says something else."""
    for word in ("today", "tomorrow"):
        text = f"tide tables of the northern harbour with every ship berth crane and gate listed {word}"
        add_document(any_database, [text], name=f"list {word}")
    add_document(any_database, ["harbour tide tables are printed by an office for sailors and kept dry"], name="other")
    index_waiting(any_database, vectors)
    finder = Retriever(any_database, vectors, hashed)
    question = "tide tables northern harbour ship berth crane gate zebra"
    first, second = names(finder.retrieve(question, ALL, k=2))
    assert first.startswith("list")
    assert second == "other"


def test_a_chunk_of_many_windows_is_one_passage(any_database: Database, vectors: VectorIndex) -> None:
    """Its best window decides."""
    add_document(any_database, ["lobster traps and also crab pots"], name="both")
    with any_database.write() as connection:
        chunk_id = connection.execute(sa.select(chunks.c.id)).scalar_one()
        connection.execute(windows.delete())
        for text in ("lobster traps", "crab pots"):
            connection.execute(
                windows.insert().values(chunk_id=chunk_id, start=0, end=1, vector=hashed(text).tobytes())
            )
    index_waiting(any_database, vectors)
    (passage,) = Retriever(any_database, vectors, hashed).retrieve("crab pots", ALL)
    assert passage.similarity == pytest.approx(1.0, abs=1e-3)


def test_without_the_vector_store_words_are_still_found(any_database: Database, own_chroma: ChromaServer) -> None:
    """Mode `text` needs no vectors; the others say what is wrong."""
    vectors = VectorIndex(own_chroma.url)
    add_document(any_database, ["sea cucumber"])
    index_waiting(any_database, vectors)
    own_chroma.stop(signal.SIGKILL)
    finder = Retriever(any_database, vectors, hashed)
    assert len(finder.retrieve("cucumber", ALL, mode="text")) == 1
    with pytest.raises(VectorStoreDown):
        finder.retrieve("cucumber", ALL)
    vectors.close()


class Likes(BaseHTTPRequestHandler):
    """A rerank service that likes whales; one whose key is wrong is refused."""

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        known = self.headers["authorization"] == "Bearer k" and self.path == "/v2/rerank"
        likes = [float("Whales" in text) for text in asked["documents"]]
        answer = {"results": [{"index": at, "relevance_score": score} for at, score in enumerate(likes)]}
        body = json.dumps(answer if known else {"message": "invalid api token"}).encode()
        self.send_response(200 if known else 401)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        """Quiet."""


@pytest.mark.parametrize("key", ["k", "wrong"])
def test_a_reranker_of_the_settings_has_the_last_word(
    any_database: Database, vectors: VectorIndex, retriever: Retriever, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    """What it likes comes first; one that refuses changes nothing."""
    monkeypatch.setattr("workers.knowledge.RERANK_S", 30.0)  # one that is late changes nothing either
    ask = ("when may boats enter the harbour", ALL)
    before = names(retriever.retrieve(*ask, similarity_min=-1.0))
    assert before[0] == "harbour.md"
    with ThreadingHTTPServer(("127.0.0.1", 0), Likes) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        settings = Settings(rerank_url=f"http://127.0.0.1:{server.server_port}/v2", rerank_api_key=key)
        again = Retriever(any_database, vectors, hashed, make_reranking(settings)).retrieve(*ask, similarity_min=-1.0)
        server.shutdown()
    assert names(again) == (["whales.md", *(one for one in before if one != "whales.md")] if key == "k" else before)
