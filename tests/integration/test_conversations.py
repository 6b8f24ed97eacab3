"""Conversations in the records: their list, what a search finds, and replies that go on."""

from __future__ import annotations

import unicodedata
from pathlib import Path

import msgspec
import pytest
import sqlalchemy as sa

from reef.conversation import store
from reef.conversation.prompt import GO_ON, build_prompt
from reef.conversation.turns import NotEditable, Turn, Turns
from reef.ledger import Ledger
from reef.personas.store import Persona
from reef.records.database import MIGRATIONS, Database, migrate
from reef.records.tables import messages, sessions
from reef.topology import load_topology
from workers.engines.simulated import SimulatedEngine

PERSONA = {"system_prompt": "Be brief.", "temperature": 0.7, "builtin": False, "created_at": 0.0, "updated_at": 0.0}
SAID = "Großer Ärger im ΟΔΟΣ, 100% sicher"


def make_session(database: Database, *texts: str, title: str = "") -> str:
    """A conversation in which this was said; its id."""
    with database.write() as connection:
        session = store.create_session(connection, "alice", title=title)
        for text in texts:
            store.add_message(connection, store.new_message(session.id, "user", text))
    return session.id


def found(database: Database, query: str) -> list[str]:
    """The ids that a search gives."""
    return [one.id for one in store.list_sessions(database, query).sessions]


def test_a_search_does_not_mind_the_case_of_any_letter(any_database: Database) -> None:
    """In titles and in messages, in both databases alike; signs mean themselves."""
    make_session(any_database, "Nothing of that; 100 sicher", title="Other")
    wanted = {make_session(any_database, SAID), make_session(any_database, title=SAID)}
    later = make_session(any_database, title="Other")
    store.rename_session(any_database, later, SAID)
    for query in ("ärger", "ÄRGER", "großer", "GROSSER", "οδος", "100% S", unicodedata.normalize("NFD", "Ärger")):
        assert set(found(any_database, query)) == wanted | {later}, query


def test_the_list_goes_on_where_a_page_of_it_ends(any_database: Database) -> None:
    """Every session once, with equal times too, though one moved to the top meanwhile; a search goes on likewise."""
    made = [make_session(any_database, title=f"Coral {number}") for number in range(7)]
    make_session(any_database, title="Other")
    with any_database.write() as connection:
        connection.execute(
            sessions.update().where(sessions.c.id.in_(made[:5])).values(updated_at=1_700_000_000.1234567)
        )
    pages = [store.list_sessions(any_database, "coral", limit=3)]
    with any_database.write() as connection:
        store.add_message(connection, store.new_message(made[6], "user", "again"))
    while pages[-1].next:
        pages.append(store.list_sessions(any_database, "coral", limit=3, before=pages[-1].next))
    told = [one.id for page in pages for one in page.sessions]
    assert [len(page.sessions) for page in pages] == [3, 3, 1]
    assert sorted(told) == sorted(made)
    assert told == [made[6], made[5], *sorted(made[:5], reverse=True)]


def test_what_was_said_before_the_search_knew_of_case_is_found_too(tmp_path: Path) -> None:
    """The migration folds what is there; rows that a process of the version before still adds are found by ASCII."""
    from alembic import command
    from alembic.config import Config

    database = Database(f"sqlite:///{tmp_path / 'reef.db'}")
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    with database.write() as connection:
        config.attributes["connection"] = connection
        command.upgrade(config, "0006")
        connection.execute(
            sa.text("INSERT INTO sessions VALUES ('s', :title, 'alice', 1, 1)"), {"title": "Über Korallen"}
        )
        connection.execute(
            sa.text(
                "INSERT INTO messages (id, session_id, role, content, state, superseded, created_at)"
                " VALUES ('m', 's', 'user', :said, 'complete', false, 1)"
            ),
            {"said": SAID},
        )
    migrate(str(database.url))
    assert found(database, "ärger") == found(database, "über") == ["s"]
    with database.write() as connection:
        store.add_message(connection, store.new_message("s", "user", "Plain Words"))
        connection.execute(messages.update().where(messages.c.content == "Plain Words").values(folded=None))
    assert found(database, "plain WORDS") == ["s"]
    database.dispose()


def test_a_reply_that_was_cut_off_goes_on_and_only_that(any_database: Database, tmp_path: Path) -> None:
    """The next run speaks after it, to no word of a person; written anew it goes on again, from the same place."""
    path = tmp_path / "queues.yaml"
    path.write_text("version: 1\npools:\n  chat: {queue: chat, devices: [simulated], engine: simulated, model: m}\n")
    ledger = Ledger(any_database)
    turns = Turns(any_database, ledger, load_topology(path))

    def answered(turn: Turn, reason: str, text: str = "It grows") -> str:
        reply = store.new_message(
            turn.session_id, "assistant", text, id=turn.reply_message_id, persona_id="alice", finish_reason=reason
        )
        claim = ledger.claim(turn.run.id, "n", 30)
        assert claim is not None
        ledger.finish(claim, "done", within=lambda connection: store.add_message(connection, reply))
        return reply.id

    first = turns.say("alice", "How does it grow?")
    cut = answered(first, "length")
    more = turns.go_on(cut)
    assert more.prompt_message_id == cut
    second = answered(more, "stop", "slowly.")
    for other in (cut, second, first.prompt_message_id):
        with pytest.raises(NotEditable):
            turns.go_on(other)
    again = turns.regenerate(second)
    assert again.prompt_message_id == cut
    answered(again, "stop", "fast.")
    assert turns.regenerate(cut).prompt_message_id == first.prompt_message_id


def test_the_prompt_of_a_reply_that_goes_on_ends_with_it(tmp_path: Path) -> None:
    """Its pieces are one, the model is told to go on, and what is left out never is the last piece."""
    engine = SimulatedEngine("simulated", context_tokens=64, hang_s=60, trace_file=tmp_path / "trace")
    persona = msgspec.convert(dict.fromkeys(Persona.__struct_fields__, "") | PERSONA, Persona)
    said = [store.new_message("s", "user", "How?")]
    said += [store.new_message("s", "assistant", f"piece {number} ", finish_reason="length") for number in (1, 2)]
    prompt, _ = build_prompt(persona, [], said, engine, 8, "", going_on=True)
    assert [(one.role, one.content) for one in prompt] == [
        ("system", "Be brief."), ("user", "How?"), ("assistant", "piece 1 piece 2 "), ("user", GO_ON)
    ]  # fmt: skip
    said.insert(1, store.new_message("s", "assistant", "long " * 60))
    prompt, _ = build_prompt(persona, [], said, engine, 8, "", going_on=True)
    assert [one.content for one in prompt] == ["Be brief.", "piece 2 ", GO_ON]
    engine.close()
