"""A persona that has documents: they are asked before it answers, cited after, and never hold an answer up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import msgspec
import pytest
import redis
import sqlalchemy as sa
from workshop import Workshop

from reef.contracts.events import Citation, Done, Notice
from reef.contracts.jobs import ChatJob, GroundJob
from reef.conversation import store
from reef.conversation.turns import GROUND_PATIENCE_S, Turn, Turns
from reef.ledger.sweep import sweep
from reef.ports import ChatRequest, ChatResult, EngineError
from reef.records.database import Database
from reef.records.tables import documents, jobs
from reef.topology import Topology
from workers.engines.simulated import SimulatedEngine

FACT = "The lighthouse keeper of Skagen is called Mette Holm"
QUESTION = "Who is the lighthouse keeper of Skagen?"


class Broker(Protocol):
    url: str


@pytest.fixture
def shop(any_database: Database, shared_redis: Broker, tmp_path: Path) -> Iterator[Workshop]:
    """All three pools in this process."""
    with redis.Redis.from_url(shared_redis.url) as client:
        made = Workshop(any_database, client, tmp_path)
        made.engines["chat"] = SimulatedEngine(
            "simulated:token_ms=0", context_tokens=4096, hang_s=60, trace_file=tmp_path / "trace"
        )
        yield made
        made.progress.close()
        made.engines["chat"].close()


@pytest.fixture
def turns(shop: Workshop) -> Turns:
    return Turns(shop.database, shop.ledger, shop.topology)


@pytest.fixture
def heard(shop: Workshop, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What the device was asked, as it stands last in each prompt."""
    asked: list[str] = []
    generate = shop.engines["chat"].generate  # type: ignore[attr-defined]

    def listen(request: ChatRequest, *rest: object) -> ChatResult:
        asked.append(request.messages[-1].content)
        result: ChatResult = generate(request, *rest)
        return result

    monkeypatch.setattr(shop.engines["chat"], "generate", listen)
    return asked


def learn(shop: Workshop, *stores: str) -> None:
    """Index the fact in these stores."""
    shop.add({"keepers.txt": FACT, "other.txt": "Boats are painted in spring."}, stores=stores or ("shared",))
    shop.run_all()


def job_of(shop: Workshop, turn: Turn) -> ChatJob:
    return msgspec.json.decode(shop.ledger.get(turn.run.id).payload, type=ChatJob)


def reply(shop: Workshop, turn: Turn) -> store.Message:
    """The stored reply."""
    with shop.database.read() as connection:
        return store.find_message(connection, turn.reply_message_id)


def events(shop: Workshop, kind: type) -> list[object]:
    return [event for event in shop.writer.events if isinstance(event, kind)]


def test_a_persona_without_documents_answers_at_once(shop: Workshop, turns: Turns) -> None:
    """No stage, no delay, nothing cited."""
    learn(shop, "bob")
    turn = turns.say("alice", QUESTION)
    assert turn.first == turn.run
    assert shop.run(turn.run).state == "done"
    assert reply(shop, turn).citations is None


def test_documents_are_asked_and_cited(shop: Workshop, turns: Turns, heard: list[str]) -> None:
    """The stage finds the passage, the reply is written with it, and what it rests on is told and stored."""
    learn(shop)
    began = shop.ledger.clock()
    shop.ledger.clock = lambda: began  # else it would begin by itself while nobody looks
    turn = turns.say("alice", QUESTION)
    assert (turn.first.task, turn.run.task) == (GroundJob.TASK, ChatJob.TASK)
    assert shop.ledger.claim(turn.run.id, "eager", 5.0) is None, "it waits for its documents"
    shop.sent.clear()
    assert shop.run(turn.first).state == "done"
    assert shop.sent == [turn.run.id], "the chat job's hint is sent by who let it begin"
    assert job_of(shop, turn).grounding == "found"
    assert shop.run(shop.ledger.get(turn.run.id)).state == "done"
    stored = reply(shop, turn)
    assert FACT in heard[-1]
    assert heard[-1].endswith(f"Question: {QUESTION}")
    assert stored.citations is not None
    assert (stored.citations[0].name, stored.citations[0].number) == ("keepers.txt", 1)
    told = events(shop, Citation)
    assert [citation.chunk_id for citation in told] == [citation.chunk_id for citation in stored.citations]  # type: ignore[attr-defined]
    assert isinstance(shop.writer.events[-1], Done), "citations come before the end"
    with shop.database.read() as connection:
        said = store.history(connection, turn.session_id)
    assert said[0].content == QUESTION, "what is kept is what the person said, not the prompt"


def test_another_s_documents_stay_his(shop: Workshop, turns: Turns) -> None:
    """A persona that has documents of its own finds nothing in another's."""
    shop.add({"mine.txt": "Alice keeps bees."}, stores=("alice",))
    learn(shop, "bob")
    turn = turns.say("alice", QUESTION)
    shop.run(turn.first)
    shop.run(shop.ledger.get(turn.run.id))
    names = {citation.name for citation in reply(shop, turn).citations or ()}
    assert "keepers.txt" not in names


def test_nothing_relevant_is_said_to_the_model(shop: Workshop, turns: Turns, heard: list[str]) -> None:
    """A question that no passage speaks of is answered without sources, and the model is told so."""
    learn(shop)
    turn = turns.say("alice", "Wherefore quantum chromodynamics?")
    shop.run(turn.first)
    assert job_of(shop, turn).grounding == "nothing"
    shop.run(shop.ledger.get(turn.run.id))
    assert "you do not know" in heard[-1]
    assert reply(shop, turn).citations is None


def test_a_silent_embed_pool_holds_nothing_up(shop: Workshop, turns: Turns) -> None:
    """When nobody does the stage, the reply begins by itself and says that the documents were not asked."""
    learn(shop)
    now = shop.ledger.clock()
    shop.ledger.clock = lambda: now
    turn = turns.say("alice", QUESTION)
    sent: list[str] = []
    sweep(shop.ledger, lambda record: sent.append(record.id), lambda pool: 0)
    assert sent == []
    shop.ledger.clock = lambda: now + GROUND_PATIENCE_S + 0.1
    sweep(shop.ledger, lambda record: sent.append(record.id), lambda pool: 0)
    assert turn.run.id in sent
    assert shop.run(shop.ledger.get(turn.run.id)).state == "done"
    (notice,) = events(shop, Notice)
    assert "could not be searched" in notice.message  # type: ignore[attr-defined]
    assert shop.run(turn.first).state == "done", "a late stage changes nothing"
    assert shop.ledger.get(turn.run.id).state == "done"


def test_without_vectors_words_are_searched(shop: Workshop, turns: Turns, monkeypatch: pytest.MonkeyPatch) -> None:
    """A vector store that is away costs the meaning, not the documents."""
    learn(shop)

    def away(*_: object) -> None:
        raise EngineError("the vector store does not answer")

    monkeypatch.setattr(shop.index, "search", away)
    turn = turns.say("alice", QUESTION)
    shop.run(turn.first)
    assert job_of(shop, turn).grounding == "found"
    shop.run(shop.ledger.get(turn.run.id))
    assert [citation.name for citation in reply(shop, turn).citations or ()][:1] == ["keepers.txt"]


def test_a_document_that_went_meanwhile_is_not_quoted(shop: Workshop, turns: Turns, heard: list[str]) -> None:
    """Between the stage and the reply a document was deleted: it is not in the prompt."""
    learn(shop)
    turn = turns.say("alice", QUESTION)
    shop.run(turn.first)
    with shop.database.write() as connection:
        connection.execute(documents.update().values(state="deleted"))
    shop.run(shop.ledger.get(turn.run.id))
    assert heard[-1] == QUESTION
    assert reply(shop, turn).citations is None


def test_a_stopped_turn_does_not_begin_after_its_stage(shop: Workshop, turns: Turns) -> None:
    """Stopped while its documents were asked: the stage lets nothing begin."""
    learn(shop)
    turn = turns.say("alice", QUESTION)
    assert shop.ledger.stop(turn.run.id).state == "cancelled"
    shop.sent.clear()
    assert shop.run(turn.first).state == "done"
    assert shop.sent == []
    assert shop.ledger.get(turn.run.id).state == "cancelled"


def test_a_turn_that_is_withdrawn_leaves_no_stage(shop: Workshop, turns: Turns) -> None:
    """The broker refused it: neither the run nor its stage stays."""
    learn(shop)
    turn = turns.say("alice", QUESTION)
    assert turns.withdraw(turn)
    with shop.database.read() as connection:
        left = connection.execute(sa.select(jobs.c.id).where(jobs.c.state == "queued")).scalars().all()
    assert left == []


def test_the_same_key_makes_one_stage(shop: Workshop, turns: Turns) -> None:
    """A repeated request gives the run that is there and adds no second stage."""
    learn(shop)
    first = turns.say("alice", QUESTION, session_id="s1", idempotency_key="k1")
    again = turns.say("alice", QUESTION, session_id="s1", idempotency_key="k1")
    assert (again.known, again.run.id, again.first.id) == (True, first.run.id, first.run.id)
    assert [record.id for record in shop.waiting(GroundJob)] == [first.first.id]


def test_without_an_embed_pool_it_answers_and_says_so(shop: Workshop, turns: Turns) -> None:
    """Documents that nobody can ask any more: the reply comes at once, with a notice."""
    learn(shop)
    pools = {name: pool for name, pool in shop.topology.pools.items() if name != "embed"}
    turn = Turns(shop.database, shop.ledger, Topology(pools)).say("alice", QUESTION)
    assert turn.first == turn.run
    assert shop.run(turn.run).state == "done"
    assert len(events(shop, Notice)) == 1
