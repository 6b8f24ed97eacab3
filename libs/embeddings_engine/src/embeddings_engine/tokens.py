"""Text to token ids, and long texts to windows. The only module that touches the `tokenizers` package."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from embeddings_engine.errors import ModelUnavailable

SENTENCE_ENDS = ".!?。！？\n"
LOOK_BACK_SHARE = 0.25
"""A window may end this share earlier than it must if a sentence ends there."""


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` of a text."""

    start: int
    end: int


@dataclass(frozen=True, slots=True)
class Item:
    """One text as a backend takes it; `ids` is empty for backends with a tokenizer of their own."""

    text: str
    ids: Sequence[int]
    tokens: int
    """Its length, special tokens included: what batches are sorted by."""


class TokenReader:
    """A model's own tokenizer, without its truncation and padding. Thread-safe."""

    def __init__(self, folder: Path) -> None:
        """Reads `tokenizer.json`, or a WordPiece `vocab.txt` as BERT's. Raises ModelUnavailable."""
        self._tokenizer = _load(folder)
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.special_tokens = len(self._tokenizer.encode("").ids)

    def items(self, texts: Sequence[str]) -> list[Item]:
        """Texts with their ids, special tokens included."""
        found = self._tokenizer.encode_batch_fast(list(texts))
        return [Item(text, entry.ids, len(entry.ids)) for text, entry in zip(texts, found, strict=True)]

    def count(self, texts: Sequence[str]) -> list[int]:
        """Tokens of each text without special ones."""
        return [len(entry.ids) for entry in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        """Spans of at most `tokens_max` tokens that together cover the text; one span when all of it fits."""
        return self._cut(text, 0, tokens_max)

    def _cut(self, text: str, base: int, tokens_max: int) -> list[Span]:
        offsets = self._tokenizer.encode(text, add_special_tokens=False).offsets
        if len(offsets) <= tokens_max:
            return [Span(base, base + len(text))]
        spans: list[Span] = []
        first, start = 0, 0
        while len(offsets) - first > tokens_max:
            last = _cut_point(text, offsets, first, tokens_max)
            end = offsets[last][0]
            spans.extend(self._checked(text[start:end], base + start, tokens_max))
            first, start = last, end
        return spans + self._checked(text[start:], base + start, tokens_max)

    def _checked(self, text: str, base: int, tokens_max: int) -> list[Span]:
        """A piece read alone can have more tokens than it had within its text; then it is halved."""
        if self.count([text])[0] <= tokens_max or len(text) < 2:
            return [Span(base, base + len(text))]
        middle = len(text) // 2
        return self._checked(text[:middle], base, tokens_max) + self._checked(text[middle:], base + middle, tokens_max)


def _cut_point(text: str, offsets: Sequence[tuple[int, int]], first: int, tokens_max: int) -> int:
    """The token that begins the next window: after a sentence if one ends late enough, else between words."""
    limit = first + tokens_max
    word = 0
    for last in range(limit, first + int(tokens_max * (1 - LOOK_BACK_SHARE)), -1):
        gap = text[offsets[last - 1][1] - 1 : offsets[last][0]]
        if len(gap) > 1 and any(sign in gap for sign in SENTENCE_ENDS):
            return last
        if not word and len(gap) > 1:
            word = last
    return word or _apart(offsets, first, limit)


def _apart(offsets: Sequence[tuple[int, int]], first: int, limit: int) -> int:
    """The last token up to `limit` that starts after the one before it ends (several tokens can share a character)."""
    for last in range(limit, first + 1, -1):
        if offsets[last][0] > offsets[first][0]:
            return last
    return limit


def _load(folder: Path) -> Any:
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise ModelUnavailable("the tokenizers package is missing: `pip install tokenizers`.") from error
    try:
        if (folder / "tokenizer.json").exists():
            return Tokenizer.from_file(str(folder / "tokenizer.json"))
        if (folder / "vocab.txt").exists():
            return _word_pieces(folder)
    except Exception as error:  # the package raises a bare Exception for a bad file
        raise ModelUnavailable(f"the tokenizer in {folder} cannot be read ({error}). Fetch the model again.") from error
    raise ModelUnavailable(f"{folder} has neither tokenizer.json nor vocab.txt. Copy the whole folder of the model.")


def _word_pieces(folder: Path) -> Any:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors

    settings = folder / "tokenizer_config.json"
    lower = json.loads(settings.read_text(encoding="utf-8")).get("do_lower_case", True) if settings.exists() else True
    tokenizer = Tokenizer(models.WordPiece.from_file(str(folder / "vocab.txt"), unk_token="[UNK]"))  # noqa: S106  (no password)
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lower)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    frame = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=frame)
    return tokenizer
