"""Packs a document's pieces into passages, and marks in each the windows that the embedding model reads.

What holds for every passage, whatever the document: `text == document.text[start:end]`; no more tokens than
`tokens_max`; its windows follow one another without a gap and none is longer than the model reads. All passages
together hold every character that is not blank. The same document is always cut in the same way.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from pathlib import Path

import msgspec

from reef.knowledge.chunking.pieces import HEADING_CHARACTERS_MAX, Piece, Section, sections
from reef.knowledge.chunking.tokens import TokenCounter
from reef.knowledge.model import Chunk, Page, PageStart, ParsedDocument

CHARACTERS_PER_TOKEN_MAX = 24
"""A passage ends where it has more than this many characters a token: blanks and marks may have no tokens at all."""


class ChunkSizes(msgspec.Struct, frozen=True, kw_only=True):
    """How long passages are, in the embedding model's tokens."""

    tokens_target: int = 512
    tokens_max: int = 640
    """A table, list or piece of code that began in a passage may run over the target up to here."""
    overlap_tokens: int = 64
    """Whole sentences of at most so much are repeated where a section is cut."""
    window_tokens: int = 256
    """What the model reads at once, its special tokens included."""

    def __post_init__(self) -> None:
        """Refuse sizes that contradict one another."""
        if not 512 <= self.tokens_target <= 2048:
            raise ValueError(f"tokens_target is {self.tokens_target}; passages have 512 to 2048 tokens.")
        if self.tokens_max < self.tokens_target:
            raise ValueError(f"tokens_max {self.tokens_max} is less than tokens_target {self.tokens_target}.")
        if not 0 <= self.overlap_tokens <= self.tokens_target // 2:
            raise ValueError(f"overlap_tokens {self.overlap_tokens} is more than half of tokens_target.")
        if self.window_tokens < 16:
            raise ValueError(f"window_tokens {self.window_tokens}: no model reads so little.")


class Chunker:
    """Cuts documents for one embedding model. Thread-safe."""

    def __init__(self, counter: TokenCounter, sizes: ChunkSizes) -> None:
        """`counter` counts in that model's tokens."""
        self.sizes = sizes
        self._counter = counter
        self._window = sizes.window_tokens - counter.special
        # the blank before the next window is a token to some models
        self._room = self._window - 1
        self._characters_max = sizes.tokens_max * CHARACTERS_PER_TOKEN_MAX

    @classmethod
    def from_file(cls, tokenizer: Path, sizes: ChunkSizes) -> Chunker:
        """With the tokenizer.json that lies beside the model."""
        return cls(TokenCounter.from_file(tokenizer), sizes)

    def cut(self, document: ParsedDocument) -> list[Chunk]:
        """The document's passages in their order."""
        found = sections(document, self._counter, self._room)
        heads = _heads(document)
        starts = [page.start for page in document.pages]
        chunks: list[Chunk] = []
        for path, packed in self._pack(found):
            for pieces in self._short_enough(document.text, packed):
                chunks.append(self._chunk(document, len(chunks), path, pieces, heads, starts))
        return chunks

    def _pack(self, found: list[Section]) -> Iterator[tuple[tuple[str, ...], list[Piece]]]:
        """Pieces for each passage, with the heading path that holds for all of them."""
        held: list[Piece] = []
        tokens = 0
        path: tuple[str, ...] = ()
        for section in found:
            if held and not self._joins(tokens, section, held):
                yield path, held
                held, tokens = [], 0
            path = _common(path, section.path) if held else section.path
            for piece in self._whole(section.pieces):
                if held and not self._takes(held, tokens, piece):
                    yield path, held
                    path = section.path
                    held = self._overlap(held, piece, section)
                    tokens = sum(one.tokens for one in held)
                held.append(piece)
                tokens += piece.tokens
        if held:
            yield path, held

    def _short_enough(self, text: str, pieces: list[Piece]) -> Iterator[list[Piece]]:
        """What was counted apart may be more tokens together: such a passage becomes two, until each fits."""
        halves = pieces if len(pieces) > 1 else _apart(pieces[0])
        exact = not any(piece.cut for piece in pieces)
        if exact or len(halves) < 2 or self._tokens(text, pieces) <= self.sizes.tokens_max:
            yield pieces
            return
        middle = len(halves) // 2
        yield from self._short_enough(text, halves[:middle])
        yield from self._short_enough(text, halves[middle:])

    def _tokens(self, text: str, pieces: list[Piece]) -> int:
        """Of pieces that follow one another, counted together."""
        return self._counter.count([text[pieces[0].start : pieces[-1].end]])[0]

    def _joins(self, tokens: int, section: Section, held: list[Piece]) -> bool:
        """Whether a new section goes on in the passage at hand: only when that is still small."""
        if section.pieces[-1].end - held[0].start > self._characters_max:
            return False
        whole = tokens + section.tokens <= self.sizes.tokens_target
        return tokens < self.sizes.tokens_target // 8 or (whole and tokens < self.sizes.tokens_target // 2)

    def _whole(self, pieces: list[Piece]) -> Iterator[Piece]:
        """Pieces too long for any passage come in their parts."""
        for piece in pieces:
            if piece.tokens <= self.sizes.tokens_max and piece.end - piece.start <= self._characters_max:
                yield piece
            else:
                yield from _apart(piece)

    def _takes(self, held: list[Piece], tokens: int, piece: Piece) -> bool:
        if piece.end - held[0].start > self._characters_max:
            return False
        if tokens + piece.tokens <= self.sizes.tokens_target:
            return True
        # the end of a table or of a piece of code may stand over the target rather than alone
        same = piece.kind in {"table", "code", "list"} and held[-1].block == piece.block
        return same and tokens + piece.tokens <= self.sizes.tokens_max and held[0].block != piece.block

    def _overlap(self, held: list[Piece], piece: Piece, section: Section) -> list[Piece]:
        """Whole sentences from the last passage's end, of the same section; tables and code repeat nothing."""
        room = min(self.sizes.overlap_tokens, self.sizes.tokens_max - piece.tokens)
        first = section.pieces[0].start
        repeated: list[Piece] = []
        for one in reversed(held[1:]):
            room -= one.tokens
            if room < 0 or one.kind != "text" or one.start < first or piece.kind != "text":
                break
            if piece.end - one.start > self._characters_max:
                break
            repeated.insert(0, one)
        return repeated

    def _chunk(
        self,
        document: ParsedDocument,
        number: int,
        path: tuple[str, ...],
        pieces: list[Piece],
        heads: dict[int, tuple[int, str]],
        starts: list[int],
    ) -> Chunk:
        start, end = pieces[0].start, pieces[-1].end
        header = heads.get(pieces[0].block)
        if header and pieces[0].start > header[0]:
            # a passage from the middle of a table says what its columns are
            path = (*path, header[1])
        return Chunk(
            number=number,
            text=document.text[start:end],
            start=start,
            end=end,
            tokens=sum(piece.tokens for piece in pieces),
            page_first=_page(document.pages, starts, start),
            page_last=_page(document.pages, starts, end - 1),
            page_starts=tuple(
                PageStart(page.number, page.start - start)
                for page in document.pages[bisect_right(starts, start) : bisect_left(starts, end)]
            ),
            headings=path,
            windows=self._windows(document.text, pieces),
        )

    def _windows(self, text: str, pieces: list[Piece]) -> tuple[tuple[int, int], ...]:
        """Spans within the passage, each read by the model as a whole."""
        start, room = pieces[0].start, self._room
        spans = _even_spans(pieces, room)
        # what was counted apart may be more tokens together
        while any(piece.cut for piece in pieces) and room > 1:
            longest = max(self._counter.count([text[one:other] for one, other in spans]))
            if longest <= self._window:
                break
            room = max(1, room - (longest - self._window))
            spans = _even_spans(pieces, room)
        return tuple((one - start, other - start) for one, other in spans)


def _apart(piece: Piece) -> list[Piece]:
    """Its parts, each as a piece of its own."""
    return [
        Piece(start, end, piece.kind, piece.block, tokens, [(start, end, tokens)], cut=True)
        for start, end, tokens in piece.parts
    ]


def _even_spans(pieces: list[Piece], room: int) -> list[tuple[int, int]]:
    """As even as the parts allow: a last window of two words would be found by these alone."""
    parts = [part for piece in pieces for part in piece.parts]
    left = sum(tokens for _, _, tokens in parts)
    spans: list[tuple[int, int]] = []
    begin, held = pieces[0].start, 0
    goal = _even(left, room)
    for start, _, tokens in parts:
        if held and (held >= goal or held + tokens > room):
            spans.append((begin, start))
            left -= held
            begin, held, goal = start, 0, _even(left, room)
        held += tokens
    spans.append((begin, pieces[-1].end))
    return spans


def _even(tokens: int, window: int) -> int:
    return -(-tokens // max(1, -(-tokens // window)))


def _common(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    length = 0
    while length < min(len(one), len(other)) and one[length] == other[length]:
        length += 1
    return one[:length]


def _heads(document: ParsedDocument) -> dict[int, tuple[int, str]]:
    """The first row of each table, by the number of its block: where it begins, and its words."""
    blocks = sorted(document.blocks, key=lambda one: one.start)
    return {
        number: (
            block.start,
            " ".join(document.text[block.start : block.end].split("\n")[0].split())[:HEADING_CHARACTERS_MAX],
        )
        for number, block in enumerate(blocks)
        if block.kind == "table"
    }


def _page(pages: tuple[Page, ...], starts: list[int], at: int) -> int | None:
    return pages[max(0, bisect_right(starts, at) - 1)].number if pages else None
