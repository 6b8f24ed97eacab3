"""Headings, tables, code and lists in text that shows them by its lines: Markdown, source code, rows. Reads no file."""

from __future__ import annotations

import re

from reef.knowledge.model import Block

_FENCE = re.compile(r" {0,3}(`{3,}|~{3,})")
_ATX = re.compile(r" {0,3}(#{1,6})\s+\S")
_SETEXT = re.compile(r" {0,3}(=+|-+)\s*$")
_ITEM = re.compile(r"\s*(?:[-*+•]|\d{1,4}[.)])\s+\S")
_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(?:\|\s*:?-+:?\s*)*\|?\s*$")


def markdown_blocks(text: str) -> list[Block]:
    """The blocks of Markdown. What is in none of them is plain text."""
    return _MarkdownLines(text).blocks()


def code_blocks(text: str) -> list[Block]:
    """All of the text as one block of code, so that it is cut between lines only."""
    return [Block("code", 0, len(text))] if text.strip() else []


def row_blocks(text: str) -> list[Block]:
    """All of the text as one table: a row a line."""
    return [Block("table", 0, len(text))] if text.strip() else []


class _MarkdownLines:
    def __init__(self, text: str) -> None:
        self._text = text
        self._lines = [(found.start(), found.end()) for found in re.finditer(r"[^\n]+|(?<=\n)(?=\n)", text)]
        self._found: list[Block] = []

    def blocks(self) -> list[Block]:
        at = 0
        while at < len(self._lines):
            at = self._fence(at) or self._table(at) or self._heading(at) or self._list(at) or at + 1
        return self._found

    def _line(self, at: int) -> str:
        start, end = self._lines[at]
        return self._text[start:end]

    def _close(self, kind: str, first: int, last: int, level: int = 0) -> int:
        self._found.append(Block(kind, self._lines[first][0], self._lines[last][1], level))  # type: ignore[arg-type]
        return last + 1

    def _fence(self, at: int) -> int:
        opened = _FENCE.match(self._line(at))
        if not opened:
            return 0
        mark = opened[1]
        for end in range(at + 1, len(self._lines)):
            line = self._line(end).strip()
            if line.startswith(mark) and not line.strip(mark[0]):
                return self._close("code", at, end)
        return self._close("code", at, len(self._lines) - 1)

    def _table(self, at: int) -> int:
        rule = at + 1
        if rule >= len(self._lines) or "|" not in self._line(at) or "-" not in self._line(rule):
            return 0
        if "|" not in self._line(rule) or not _RULE.match(self._line(rule)):
            return 0
        last = rule
        while last + 1 < len(self._lines) and "|" in self._line(last + 1):
            last += 1
        return self._close("table", at, last)

    def _heading(self, at: int) -> int:
        line = self._line(at)
        atx = _ATX.match(line)
        if atx:
            return self._close("heading", at, at, len(atx[1]))
        below = self._line(at + 1) if at + 1 < len(self._lines) else ""
        setext = _SETEXT.match(below) if line.strip() and not _ITEM.match(line) else None
        alone = at == 0 or not self._line(at - 1).strip()
        if setext and alone and len(setext[1]) >= 2:
            return self._close("heading", at, at + 1, 1 if setext[1][0] == "=" else 2)
        return 0

    def _list(self, at: int) -> int:
        if not _ITEM.match(self._line(at)):
            return 0
        last = at
        for following in range(at + 1, len(self._lines)):
            line = self._line(following)
            if not (_ITEM.match(line) or line.startswith("  ")):
                break
            last = following
        return self._close("list", at, last)
