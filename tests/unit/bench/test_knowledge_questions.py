"""The labelled questions of the retrieval bench fit the documents they ask about."""

from __future__ import annotations

from bench.knowledge_quality import WORDS_MAX, read_questions, sections


def test_every_answer_is_a_passage_there_is() -> None:
    """A heading that was renamed would count as never found; the set says so instead."""
    there = {f"{piece.name}#{piece.headings[-1]}" for piece in sections() if piece.headings}
    missing = [place for question in read_questions().questions for place in question.at if place not in there]
    assert missing == []


def test_the_set_is_large_and_has_both_kinds() -> None:
    """At least sixty questions, none twice, paraphrased ones and exact terms."""
    asked = read_questions()
    assert len({question.q for question in asked.questions}) == len(asked.questions) >= 60
    assert {question.kind for question in asked.questions} == {"meaning", "exact"}
    assert len(asked.unanswerable) >= 10


def test_passages_are_whole_lines_of_a_bounded_length() -> None:
    """Nothing of a document is lost between two passages, and only a single long line may be longer."""
    for piece in sections():
        assert piece.text.strip()
        assert len(piece.text.split()) <= WORDS_MAX or "\n" not in piece.text
