"""A model's own tokens: how many a text has, and where a text without sentences may be cut. Knows no documents."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

BATCH = 4096
"""Texts that are tokenised together."""
WORD_CHARACTERS_MAX = 100
"""A longer run without a blank may become a single token `unknown`, so tokens say nothing about its length."""
LONG_PIECE_CHARACTERS = 64
LONG_WORD = re.compile(rf"\S{{{WORD_CHARACTERS_MAX + 1},}}")
_JOINERS = ("\u200d", "\u200c")


class TokenCounter:
    """Counts with one tokenizer. Thread-safe."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        """The tokenizer is changed: it neither cuts nor fills up any more."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self.special = tokenizer.num_special_tokens_to_add(False)
        """Tokens that the model sets around each text."""
        together, apart = self.count(["a.\n\n   b"])[0], sum(self.count(["a.", "b"]))
        self.blanks_count = together > apart
        """Whether blanks between sentences are tokens too: not for BERT's kind, but for those that work on bytes."""

    @classmethod
    def from_file(cls, path: Path) -> TokenCounter:
        """Of a tokenizer.json."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(str(path)))

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text, special ones left out."""
        counts: list[int] = []
        for at in range(0, len(texts), BATCH):
            found = self._tokenizer.encode_batch_fast(list(texts[at : at + BATCH]), add_special_tokens=False)
            counts.extend(len(one.ids) for one in found)
        return counts

    def parts(self, text: str, tokens_max: int) -> Iterator[tuple[int, int, int]]:
        """Cut a text that has no sentences to cut at: spans that cover it, with their tokens, none over the limit.

        Between words if possible, else between tokens, never inside what is seen as one character.
        """
        at = 0
        for found in LONG_WORD.finditer(text):
            yield from self._by_tokens(text, at, found.start(), tokens_max)
            yield from self._by_characters(text, found.start(), found.end(), tokens_max)
            at = found.end()
        yield from self._by_tokens(text, at, len(text), tokens_max)

    def _by_tokens(self, text: str, start: int, end: int, tokens_max: int) -> Iterator[tuple[int, int, int]]:
        if not text[start:end].strip():
            return
        encoding = self._tokenizer.encode(text[start:end], add_special_tokens=False)
        if not len(encoding):  # nothing but characters that the model does not see
            yield start, end, 0
        first = 0
        begin = start
        while first < len(encoding):
            last = _last_token(encoding, first, tokens_max)
            stop = end if last == len(encoding) else start + _begin(encoding, last)
            if stop > begin:
                yield from self._fit(text, begin, stop, last - first, tokens_max)
            first, begin = last, stop

    def _fit(self, text: str, start: int, end: int, tokens: int, tokens_max: int) -> Iterator[tuple[int, int, int]]:
        """A piece cut out of its word may fall apart into more tokens than it had there."""
        found = max(tokens, self.count([text[start:end]])[0])
        if found <= tokens_max or end - start == 1:
            yield start, end, min(found, tokens_max)
            return
        middle = _between_characters(text, start, (start + end) // 2, end)
        yield from self._fit(text, start, middle, 0, tokens_max)
        yield from self._fit(text, middle, end, 0, tokens_max)

    def _by_characters(self, text: str, start: int, end: int, tokens_max: int) -> Iterator[tuple[int, int, int]]:
        # of even length: two neighbours are always too long to be read as one word with tokens of its own
        size = -(-(end - start) // max(1, (end - start) // LONG_PIECE_CHARACTERS))
        at = start
        while at < end:
            stop = _between_characters(text, at, min(at + size, end), end)
            yield from self._fit(text, at, stop, 1, tokens_max)
            at = stop


def _begin(encoding: Encoding, token: int) -> int:
    span = encoding.token_to_chars(token)
    assert span is not None  # noqa: S101 - only tokens that a model sets around a text have none
    return span[0]


def _last_token(encoding: Encoding, first: int, tokens_max: int) -> int:
    """Where the piece ends that begins at token `first`: at the last end of a word that fits."""
    last = min(first + tokens_max, len(encoding))
    if last == len(encoding):
        return last
    # one by one: `word_ids` and `offsets` make a list of all tokens anew each time
    for at in range(last, first, -1):
        if encoding.token_to_word(at) != encoding.token_to_word(at - 1):
            return at
    return last


def _between_characters(text: str, start: int, at: int, end: int) -> int:
    """The nearest place from `at` on that does not part a base from its marks, or an emoji from its other half."""
    stop = max(at, start + 1)
    while stop < end and (
        text[stop] in _JOINERS
        or text[stop - 1] in _JOINERS
        or unicodedata.combining(text[stop])
        or unicodedata.category(text[stop]) in {"Mn", "Me", "Sk"}
    ):
        stop += 1
        if stop - at > LONG_PIECE_CHARACTERS:
            return max(at, start + 1)
    return stop
