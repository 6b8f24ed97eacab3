"""A document as the smallest pieces that passages are made of: sentences, rows, lines, headings. Packs nothing."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from reef.knowledge.chunking.sentences import lines, sentences
from reef.knowledge.chunking.tokens import LONG_WORD, WORD_CHARACTERS_MAX, TokenCounter
from reef.knowledge.model import Block, BlockKind, ParsedDocument

HEADING_CHARACTERS_MAX = 200
"""Of one title in a passage's heading path."""


class Piece(msgspec.Struct):
    """A span that is kept whole if it can be. `parts` are spans in it that a window can hold, with their tokens."""

    start: int
    end: int
    kind: BlockKind
    block: int
    """Number of the block it belongs to; of plain text -1."""
    tokens: int = 0
    parts: list[tuple[int, int, int]] = []
    cut: bool = False
    """Whether it was cut inside a sentence, or blanks count: tokens of its parts may not add up exactly then."""


class Section(msgspec.Struct):
    """What stands under one heading, the heading included."""

    path: tuple[str, ...]
    pieces: list[Piece] = []
    tokens: int = 0


def sections(document: ParsedDocument, counter: TokenCounter, part_tokens_max: int) -> list[Section]:
    """The document's sections with their pieces counted. A part has at most `part_tokens_max` tokens."""
    found = _sections(document)
    pieces = [piece for section in found for piece in section.pieces]
    text = document.text
    ends = [one.end for one in pieces]
    if counter.blanks_count and pieces:
        ends = [*(one.start for one in pieces[1:]), len(text)]
    counts = counter.count([text[one.start : end] for one, end in zip(pieces, ends, strict=True)])
    for piece, tokens in zip(pieces, counts, strict=True):
        piece.tokens = tokens
        piece.cut = counter.blanks_count
        long = piece.end - piece.start > WORD_CHARACTERS_MAX and LONG_WORD.search(text, piece.start, piece.end)
        if tokens <= part_tokens_max and not long:
            piece.parts = [(piece.start, piece.end, tokens)]
        else:
            cut = counter.parts(text[piece.start : piece.end], part_tokens_max)
            piece.parts = [(piece.start + start, piece.start + end, count) for start, end, count in cut]
            piece.tokens = sum(count for _, _, count in piece.parts)
            piece.cut = True
    for section in found:
        section.tokens = sum(piece.tokens for piece in section.pieces)
    return found


def _sections(document: ParsedDocument) -> list[Section]:
    text = document.text
    path: list[tuple[int, str]] = []
    found = [Section((), [])]
    for number, block in _covering(document):
        if block.kind == "heading":
            while path and path[-1][0] >= block.level:
                path.pop()
            path.append((block.level, _title(text[block.start : block.end])))
            found.append(Section(tuple(title for _, title in path), []))
        found[-1].pieces.extend(Piece(start, end, block.kind, number) for start, end in _spans(text, block))
    return [section for section in found if section.pieces]


def _covering(document: ParsedDocument) -> Iterator[tuple[int, Block]]:
    """The blocks in their order, with plain text where there are none."""
    at = 0
    for number, block in enumerate(sorted(document.blocks, key=lambda one: one.start)):
        if block.start > at:
            yield -1, Block("text", at, block.start)
        if block.end > max(at, block.start):
            yield number, Block(block.kind, max(at, block.start), block.end, block.level)
            at = block.end
    if at < len(document.text):
        yield -1, Block("text", at, len(document.text))


def _spans(text: str, block: Block) -> Iterator[tuple[int, int]]:
    if block.kind == "text":
        return sentences(text, block.start, block.end)
    return lines(text, block.start, block.end)


def _title(heading: str) -> str:
    """The words of a heading, without the marks that make it one."""
    first = heading.strip().split("\n")[0] if heading.rstrip().endswith(("==", "--")) else heading
    return " ".join(first.strip().strip("#").split())[:HEADING_CHARACTERS_MAX]
