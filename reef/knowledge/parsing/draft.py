"""A document being put together: clean text, and the pages and blocks that are spans of it. Reads no file."""

from __future__ import annotations

import re
import unicodedata

from reef.knowledge.model import Block, BlockKind, Page, ParsedDocument
from reef.ports import ParseFailed

_BREAKS = re.compile("\r\n?|[\x0b\x0c\x85\u2028\u2029]")
# control characters, lone surrogates, byte order marks and the places Unicode promises never to use
_JUNK = re.compile("[\x00-\x08\x0e-\x1f\x7f-\x84\x86-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_BLANK = re.compile(r"[ \t\xa0]{100,}|\n{5,}")
BLANK_MAX = 50
"""A longer run of spaces is cut down to this."""


def clean(text: str) -> str:
    """Text without control characters, with `\\n` alone as line break, composed (NFC), without deserts of blanks."""
    if _BREAKS.search(text):
        text = _BREAKS.sub("\n", text)
    if _JUNK.search(text):
        text = _JUNK.sub("", text)
    if _BLANK.search(text):
        text = _BLANK.sub(lambda found: found[0][:3] if found[0][0] == "\n" else " " * BLANK_MAX, text)
    return text if text.isascii() else unicodedata.normalize("NFC", text)


class Draft:
    """Text that grows by blocks. Spans are known as soon as a block is added, and never change."""

    def __init__(self, characters_max: int) -> None:
        """More characters than `characters_max` end in ParseFailed."""
        self.warnings: list[str] = []
        self.title = ""
        self._characters_max = characters_max
        self._parts: list[str] = []
        self._length = 0
        self._blocks: list[Block] = []
        self._pages: list[tuple[int, int]] = []

    def add(self, text: str, kind: BlockKind = "text", level: int = 0) -> None:
        """Add one block, parted from the one before by an empty line. Blank text adds nothing."""
        text = clean(text).strip("\n").rstrip()
        if not text.strip():
            return
        start = self._append(text)
        if kind != "text":
            self._blocks.append(Block(kind, start, self._length, level))

    def page(self, number: int) -> None:
        """What follows stands on this page."""
        if self._pages and self._pages[-1][0] == number:
            return
        # the empty line between two blocks belongs to no page
        self._pages.append((number, self._length + (2 if self._length else 0)))

    def add_document(self, other: ParsedDocument, level: int = 0) -> None:
        """Add another document's text with its blocks, its headings `level` deeper. Its pages are not ours."""
        if not other.text.strip():
            return
        start = self._append(other.text)
        for block in other.blocks:
            deeper = block.level + level if block.kind == "heading" else block.level
            self._blocks.append(Block(block.kind, block.start + start, block.end + start, deeper))

    def finish(self, *, mime_type: str, encoding: str = "") -> ParsedDocument:
        """The document."""
        text = "".join(self._parts)
        starts = [min(start, len(text)) for _, start in self._pages] + [len(text)]
        pages = []
        for at, (number, _) in enumerate(self._pages):
            start = starts[at]
            # the empty line before the next page is left out where this page has text at all
            end = max(start, starts[at + 1] - 2) if at + 1 < len(self._pages) else len(text)
            pages.append(Page(number, start, end))
        return ParsedDocument(
            text=text,
            pages=tuple(pages),
            blocks=tuple(self._blocks),
            title=clean(self.title).strip()[:300],
            mime_type=mime_type,
            encoding=encoding,
            warnings=tuple(dict.fromkeys(self.warnings)),
        )

    def _append(self, text: str) -> int:
        if self._length:
            self._parts.append("\n\n")
            self._length += 2
        start = self._length
        self._parts.append(text)
        self._length += len(text)
        if self._length > self._characters_max:
            raise ParseFailed(
                "too_large", f"The file holds more than {self._characters_max:,} characters of text; split it."
            )
        return start
