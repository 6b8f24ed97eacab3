"""Passages in a prompt, and the marks of a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reef.knowledge.citing import MARKS_MAX, citations, marked, sources_block, within
from reef.knowledge.model import PageStart, Passage


def passage(number: int, text: str = "text", **fields: object) -> Passage:
    """A passage like those of retrieval."""
    values = {
        "chunk_id": number,
        "document_id": f"d{number}",
        "name": f"file{number}.pdf",
        "title": "",
        "page_first": number,
        "page_last": number,
        "headings": ("Part", f"Chapter {number}"),
        "start": 10 * number,
        "end": 10 * number + 9,
        "text": text,
        "tokens": 5,
        "score": 0.5,
        "similarity": 0.4,
        "why": "",
    }
    return Passage(**(values | fields))


def words(text: str) -> int:
    """A tokenizer of a model that reads words."""
    return len(text.split())


THREE = [passage(1), passage(2, page_last=4), passage(3, page_first=None, page_last=None, headings=())]


def test_the_block_numbers_passages_and_says_where_they_stand() -> None:
    """A model sees number, file, pages and headings above each text."""
    block = sources_block(THREE)
    assert "[1] file1.pdf, page 1 > Part > Chapter 1\ntext" in block
    assert "[2] file2.pdf, pages 2-4 > Part > Chapter 2\ntext" in block
    assert "[3] file3.pdf\ntext" in block
    assert sources_block([]) == ""


@pytest.mark.parametrize(
    ("reply", "numbers"),
    [
        ("High tide is at six [2]. Low tide at noon [1][2].", [2, 1]),
        ("Both [1, 3] and [2; 3].", [1, 3, 2]),
        ("Wide brackets 【2】 count.", [2]),
        ("Nothing marked.", []),
        ("Out of range [0] [4] [99] [2024].", []),
        ("A [1](https://example.com) link and a footnote [^2].", []),
        ("Code `a[1]` and\n```\nx = y[2]\n```\nthen [3].", [3]),
        ("An open block ```\nx[1]", []),
        ("[ 2 ]", [2]),
        ("[two] [] [-1] [1.5]", []),
    ],
)
def test_marks(reply: str, numbers: list[int]) -> None:
    """Numbers in brackets are marks; links, code, years and numbers nobody gave are not."""
    assert marked(reply, 3) == numbers


def test_a_model_in_a_loop_is_cut_off() -> None:
    """Marks without end are not followed without end."""
    assert marked("[1]" * MARKS_MAX + "[2]", 3) == [1]


@given(st.text(alphabet="[]【】012,; (`\n"))
def test_no_reply_breaks_the_parser(reply: str) -> None:
    """Whatever a model writes, only given numbers come out, each once."""
    numbers = marked(reply, 3)
    assert set(numbers) <= {1, 2, 3}
    assert len(set(numbers)) == len(numbers)


def test_marked_passages_are_cited_with_their_place() -> None:
    """The event leads to the page and the span of the passage."""
    (event,) = citations("It is so [2].", THREE)
    assert (event.number, event.basis, event.document_id) == (2, "cited", "d2")
    assert (event.page_first, event.page_last, event.start, event.end, event.chunk_id) == (2, 4, 20, 29, 2)
    assert event.headings == ("Part", "Chapter 2")


def test_a_reply_without_marks_tells_its_sources_as_sources() -> None:
    """Small models forget to cite; what they were given is told, and not called cited."""
    told = citations("It is so.", THREE)
    assert [(event.number, event.basis) for event in told] == [(1, "source"), (2, "source"), (3, "source")]
    assert citations("It is so [1].", []) == []


def test_the_block_keeps_to_its_budget() -> None:
    """The whole block counts, instruction and headings included; a short passage may follow one that does not fit."""
    many = [passage(1, "one " * 20), passage(2, "two " * 500), passage(3, "three " * 20)]
    kept = within(many, 150, words)
    assert [one.chunk_id for one in kept] == [1, 3]
    assert words(sources_block(kept)) <= 150
    assert within(many, 10, words) == []
    assert within([], 10, words) == []


TIDES = (
    "Chapter 3. Tides of the harbour.\n\nLow water at Skagen comes at noon on most days in June. "
    "Boats over nine metres wait outside the mole.\n\n"
    "The lighthouse keeper of Skagen is called Mette Holm. She lives in the red house behind the dunes."
)
BOATS = "Boats are painted in spring. Blue paint lasts two summers, red paint lasts three."
KEEPER_AT, HOUSE_AT = TIDES.index("The lighthouse"), TIDES.index("She lives")
GIVEN = [
    passage(1, BOATS, start=0, end=len(BOATS)),
    passage(
        2, TIDES, start=1000, end=1000 + len(TIDES), page_first=5, page_last=7,
        page_starts=(PageStart(6, TIDES.index("Boats over")), PageStart(7, KEEPER_AT)),
    ),
]  # fmt: skip
QUESTION = "Who is the lighthouse keeper of Skagen?"


def said(event: object, text: str = TIDES, start: int = 1000) -> str:
    """What a citation points at."""
    return text[event.start - start : event.end - start]  # type: ignore[attr-defined]


def test_a_citation_is_narrowed_to_the_sentence_and_its_page() -> None:
    """Of a passage over three pages the page is named on which it stands, wherever the mark is."""
    for reply in ("The keeper is Mette Holm [2].", "Sure.\n- the keeper is Mette Holm. [2]\n- nothing else"):
        (event,) = citations(reply, GIVEN, QUESTION)
        assert (event.basis, event.page_first, event.page_last) == ("cited", 7, 7)
        assert said(event) == "The lighthouse keeper of Skagen is called Mette Holm."
    (event,) = citations("Low water comes at noon [2].", GIVEN)
    assert (event.page_first, event.page_last) == (5, 5)


def test_a_mark_behind_something_else_means_the_whole_passage() -> None:
    """Nothing is invented where the words do not tell; and what was cut by an older version has no pages inside."""
    (event,) = citations("Elephants dream of cheese [2].", GIVEN)
    assert (event.page_first, event.page_last, said(event)) == (5, 7, TIDES)
    (old,) = citations("The keeper is Mette Holm [2].", [GIVEN[0], passage(2, TIDES, page_first=5, page_last=7)])
    assert (old.page_first, old.page_last) == (5, 7)


@pytest.mark.parametrize(
    "reply",
    [
        "Mette Holm is the lighthouse keeper of Skagen.",
        "I looked at it. The keeper of the lighthouse in Skagen is called Mette Holm!",
        "Ask Mette Holm. The lighthouse keeper Mette Holm lives in a red house.",
    ],
)
def test_a_reply_without_marks_is_matched_by_its_words(reply: str) -> None:
    """Small models forget the marks; the passage that says the same is told as such, and only that one."""
    (event,) = citations(reply, GIVEN, QUESTION)
    assert (event.number, event.basis, event.page_first) == (2, "matched", 7)
    assert "Mette Holm" in said(event)


@pytest.mark.parametrize(
    "reply",
    [
        "I do not know who the lighthouse keeper of Skagen is.",
        "The lighthouse keeper of Skagen is a person who keeps the lighthouse of Skagen.",
        "The lighthouse keeper of Skagen is Jens Lund.",
        "Lighthouses were invented long ago to warn ships.",
        "Yes.",
        "",
    ],
)
def test_what_no_passage_says_is_matched_to_none(reply: str) -> None:
    """The question said again, another name, other knowledge: all that was given is told as what it was given."""
    told = citations(reply, GIVEN, QUESTION)
    assert [(event.number, event.basis) for event in told] == [(1, "source"), (2, "source")]
    assert said(told[1]) == "The lighthouse keeper of Skagen is called Mette Holm.", "the place nearest to the question"
    assert [event.page_first for event in told] == [1, 7]


def test_the_lines_of_a_table_are_places_of_their_own() -> None:
    """A table is one long sentence to those who look for full stops."""
    table = "\n".join(f"berth {n} | length {n * 7} metres | price {n * 31} crowns" for n in range(1, 40))
    (event,) = citations(
        "Berth 12 has a length of 84 metres and a price of 372 crowns [1].", [passage(1, table, start=0)]
    )
    assert said(event, table, 0) == "berth 12 | length 84 metres | price 372 crowns"
