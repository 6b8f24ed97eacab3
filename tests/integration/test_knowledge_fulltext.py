"""Full-text search on SQLite and on PostgreSQL: what people type is found, and is never query syntax."""

from __future__ import annotations

import pytest
import sqlalchemy as sa
from knowledge_library import add_document

from reef.knowledge import fulltext
from reef.knowledge.visible import Filters
from reef.records.database import Database
from reef.records.tables import chunks, documents

TEXTS = {
    "english": "The lighthouse keeper repairs the broken lamp every winter.",
    "chinese": "珊瑚礁是海洋中最多样化的生态系统之一。",
    "japanese": "全文検索の索引はデータベースが自動的に更新します。",
    "korean": "등대지기는 매일 밤 등불을 켠다.",
    "thai": "ประภาคารส่องแสงในเวลากลางคืน",
    "arabic": "اَلْمَنَارَةُ تُضِيءُ الطَّرِيقَ لِلسُّفُنِ",
    "hindi": "दीपस्तंभ रात में जहाज़ों को रास्ता दिखाता है",
    "french": "Le phare éclaire la côte dès la tombée de la nuit.",
    "german": "Die Straße zum Leuchtturm ist gesperrt.",
    "code": "Set REEF_CHROMA_URL=http://localhost:8000 or edit cli/launch.py; error E-4711 means no route.",
}


@pytest.fixture
def library(any_database: Database) -> Database:
    """One document per language."""
    for name, text in TEXTS.items():
        add_document(any_database, [text], name=name, state="indexed")
    return any_database


def names(database: Database, text: str, stores: tuple[str, ...] = ("shared",), k: int = 5, **fields: str) -> list[str]:
    """Names of the documents found, best first."""
    with database.read() as connection:
        ids = [chunk_id for chunk_id, _ in fulltext.search(connection, stores, text, k, Filters(**fields))]
        query = sa.select(chunks.c.id, documents.c.name).join(documents).where(chunks.c.id.in_(ids))
        by_id = dict(map(tuple, connection.execute(query)))
    return [by_id[chunk_id] for chunk_id in ids]


def test_every_script_is_found(library: Database) -> None:
    """Words are found in scripts without spaces, with vowel marks or without, with accents or without."""
    asked = {
        "How do I repair lamps?": "english",  # another form of both words
        "生态系统": "chinese",
        "海洋": "chinese",
        "什么是珊瑚礁？": "chinese",
        "索引": "japanese",
        "検索について": "japanese",
        "データベース": "japanese",
        "등대": "korean",
        "กลางคืน": "thai",
        "المنارة": "arabic",  # as it is typed, without the vowels of the text
        "السفن": "arabic-none",
        "जहाज़ों": "hindi",
        "ECLAIRE": "french",
        "éclaire": "french",
        "strasse": "german",
        "STRAẞE": "german",
        "chroma url": "code",
        "REEF_CHROMA_URL": "code",
        "launch.py": "code",
        "E-4711": "code",
        "localhost:8000": "code",
    }
    found = {text: (names(library, text) or ["none"])[0] for text in asked if asked[text] != "arabic-none"}
    assert found == {text: name for text, name in asked.items() if name != "arabic-none"}


def test_a_single_character_is_found(library: Database) -> None:
    """A word of one Chinese character is looked for as the beginning of a pair."""
    assert names(library, "海") == ["chinese"]


@pytest.mark.parametrize(
    "text",
    [
        '"',
        '""',
        "'",
        "\\",
        'lamp"',
        'lamp" OR "',
        "lamp AND",
        "NOT lamp",
        "NEAR(lamp winter, 2)",
        "text:lamp",
        "{text headings}: lamp",
        "lamp*",
        "^lamp",
        "(lamp",
        "lamp & | ! <-> :*",
        "'; DROP TABLE chunks; --",
        "lamp\0winter",
        "%s %(x)s :x ?",
        "😀",
        "🇩🇪 lamp 👩‍👩‍👧",
        "\ud83d",
        "a" * 100_000,
        "lamp " * 5_000,
        "__ -- ::",
        "",
        " \n\t",
    ],
)
def test_nothing_a_person_types_is_syntax(library: Database, text: str) -> None:
    """Quotes, operators, emoji, half a character, very long texts: found where a word is in it, never an error."""
    expected = ["english"] if "lamp" in text else []
    assert names(library, text) == expected


def test_stop_words_do_not_decide(library: Database) -> None:
    """Of a sentence only what it is about counts, unless it has nothing else."""
    assert names(library, "What is the lighthouse in the night?") == ["english"]


def test_a_heading_weighs_more(any_database: Database) -> None:
    """A passage under the heading that was asked for comes before one that mentions the word."""
    inside = add_document(any_database, ["The anchor is mentioned here."], state="indexed")
    under = add_document(any_database, ["It is dropped slowly and held firm."], state="indexed")
    with any_database.write() as connection:
        connection.execute(chunks.update().where(chunks.c.document_id == under).values(headings="Anchor"))
        order = [chunk_id for chunk_id, _ in fulltext.search(connection, ["shared"], "anchor", 5)]
        found = connection.execute(sa.select(chunks.c.document_id).where(chunks.c.id == order[0])).scalar_one()
    assert (len(order), found) == (2, under), inside


def test_only_visible_documents_are_found(any_database: Database) -> None:
    """State and store decide: what is not indexed, replaced, or another persona's is not there."""
    for state in ("embedding", "indexing", "replaced", "failed", "cancelled"):
        add_document(any_database, ["harbour"], name=state, state=state)
    add_document(any_database, ["harbour"], name="mine", stores=["alice"], state="indexed")
    add_document(any_database, ["harbour"], name="other", stores=["bob"], state="indexed")
    assert names(any_database, "harbour", ("shared", "alice")) == ["mine"]
    assert names(any_database, "harbour", ("shared",)) == []


def test_a_change_is_found_at_once_and_a_deleted_text_is_not(any_database: Database) -> None:
    """The index follows insert, update and delete of the rows, those by cascade too."""
    document_id = add_document(any_database, ["The old word is barnacle."], state="indexed", name="one")
    with any_database.write() as connection:
        connection.execute(chunks.update().values(text="The new word is limpet."))
    assert names(any_database, "barnacle") == []
    assert names(any_database, "limpet") == ["one"]
    with any_database.write() as connection:
        connection.execute(documents.delete().where(documents.c.id == document_id))
    assert names(any_database, "limpet") == []
    if any_database.kind == "sqlite":
        with any_database.write() as connection:
            connection.execute(sa.text("INSERT INTO chunks_text(chunks_text, rank) VALUES ('integrity-check', 1)"))


def test_filters_limit_the_search(any_database: Database) -> None:
    """Folder, language and kind of file; a percent sign in a folder's name is a percent sign."""
    add_document(any_database, ["tide"], name="100%/a", state="indexed", language="en", mime_type="text/plain")
    add_document(any_database, ["tide"], name="100x/b", state="indexed", language="de", mime_type="text/html")
    assert names(any_database, "tide", name_prefix="100%/") == ["100%/a"]
    assert names(any_database, "tide", language="de") == ["100x/b"]
    assert names(any_database, "tide", mime_type="text/plain") == ["100%/a"]


def test_a_small_store_beside_a_large_one_is_searched_to_the_end(any_database: Database) -> None:
    """A persona's few passages are found though thousands of another's rank before them."""
    add_document(any_database, ["kelp kelp kelp"] * 600, stores=["bob"], state="indexed")
    add_document(
        any_database,
        ["a long passage that says kelp only once among many other words"],
        stores=["alice"],
        state="indexed",
        name="mine",
    )
    assert names(any_database, "kelp", ("alice",)) == ["mine"]
