"""Which sentence of which passage says what a sentence of a reply says, told by their words. Pure; knows no model.

A word counts by how rare it is among the passages, and words of the question count for nothing when it is asked whether
a passage supports a sentence: a reply that only says the question again is supported by none.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from reef.knowledge.chunking.sentences import bare, lines, sentences
from reef.records.words import question_words

SENTENCE_CHARS_MAX = 400
"""A longer one is a table or a list: its lines are looked at one by one."""
SENTENCES_TOGETHER = 2
"""Neighbours that may support one sentence of a reply together."""
CLAIMS_MAX = 32
"""Sentences of a reply that are looked at."""
STEM_CHARS = 7
"""Of a word, so that other endings are the same word."""
SUPPORT_MIN = 0.6
"""Share of what a sentence says beyond the question that its passage has to say too."""
SHARED_MIN = 3
"""Words that both have to have, the question's included: two are in common by chance."""
NEAR_MIN = 0.3
"""Share of the words of a marked sentence that makes a place in its passage the one that is meant."""


class Place(msgspec.Struct, frozen=True):
    """A span of a passage's text, and how much of what was asked for stands in it (0 to 1)."""

    start: int
    end: int
    share: float


class Matcher:
    """Compares sentences with the passages of one reply."""

    def __init__(self, texts: Sequence[str]) -> None:
        self._spans = [list(spans_of(text)) for text in texts]
        self._words = [
            [words_of(text[start:end]) for start, end in spans] for text, spans in zip(texts, self._spans, strict=True)
        ]
        self._count = sum(map(len, self._spans))
        self._known = Counter(word for passage in self._words for words in passage for word in words)

    def supports(self, claim: str, question: str, number: int) -> Place | None:
        """Where passage `number` says what the claim says beyond the question; None where it does not."""
        said = words_of(claim)
        new = said - words_of(question)
        best = self._best(new, number)
        if best is None or best[0].share < SUPPORT_MIN or len(said & best[1]) < SHARED_MIN:
            return None
        return best[0]

    def nearest(self, claim: str, number: int) -> Place | None:
        """The place in passage `number` that a claim which names it means; None where nothing is near."""
        said = words_of(claim)
        best = self._best(said, number)
        if best is None or best[0].share < NEAR_MIN or len(said & best[1]) < min(2, len(said)):
            return None
        return best[0]

    def _best(self, wanted: set[str], number: int) -> tuple[Place, set[str]] | None:
        """The shortest span that has most of these words, with its words."""
        whole = self._weight(wanted)
        best: tuple[Place, set[str]] | None = None
        if not whole:
            return None
        spans, words = self._spans[number], self._words[number]
        for together in range(1, SENTENCES_TOGETHER + 1):
            for first in range(len(spans) - together + 1):
                there = set().union(*words[first : first + together])
                share = self._weight(wanted & there) / whole
                if share > (best[0].share if best else 0.0) + 1e-9:
                    best = Place(spans[first][0], spans[first + together - 1][1], share), there
        return best

    def _weight(self, words: Iterable[str]) -> float:
        return sum(math.log(1 + (1 + self._count) / (1 + self._known[word])) for word in words)


def spans_of(text: str) -> Iterator[tuple[int, int]]:
    """Sentences, of tables and lists their lines."""
    for start, end in sentences(text, 0, len(text)):
        if end - start <= SENTENCE_CHARS_MAX:
            yield start, end
            continue
        for line_start, line_end in lines(text, start, end):
            yield from bare(text, line_start, line_end)


def claims_of(reply: str) -> list[str]:
    """The sentences of a reply, line by line."""
    found = [
        reply[start:end] for first, last in lines(reply, 0, len(reply)) for start, end in sentences(reply, first, last)
    ]
    return found[:CLAIMS_MAX]


def words_of(text: str) -> set[str]:
    """Its words as they are compared: plain, without plural, cut to their stem."""
    return {_stem(word.forms[-1]) for word in question_words(text)}


def _stem(word: str) -> str:
    singular = word[:-1] if len(word) > 3 and word.endswith("s") else word
    return singular[:STEM_CHARS] if singular.isalpha() else singular
