"""Passages in a prompt, and the marks of a reply."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reef.knowledge.citing import MARKS_MAX, citations, marked, sources_block, within
from reef.knowledge.model import Passage


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
