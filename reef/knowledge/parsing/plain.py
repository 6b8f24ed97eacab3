"""Files that are text already: plain, Markdown, source code, data, rows, subtitles. The text stays what it is."""

from __future__ import annotations

import contextlib
import csv
import re
from collections.abc import Iterator

from reef.knowledge.model import Block, ParsedDocument
from reef.knowledge.parsing.blocks import code_blocks, markdown_blocks, row_blocks
from reef.knowledge.parsing.decode import decode
from reef.knowledge.parsing.draft import clean
from reef.knowledge.parsing.source import Source
from reef.ports import ParseFailed

CELL_CHARACTERS_MAX = 1_000_000
SNIFF_CHARACTERS = 16 * 1024
_TIMES = re.compile(r"\s*(?:(\d+):)?(\d{1,2}):(\d{2})[.,]\d{3}\s+-->\s+")
_TAGS = re.compile(r"</?[a-zA-Z][^>]{0,100}>|\{\\[^}]{0,100}\}")
_CUE_HEADS = ("WEBVTT", "NOTE", "STYLE", "REGION")


def read_text(source: Source) -> ParsedDocument:
    """Plain text."""
    return _as_it_is(source, [])


def read_markdown(source: Source) -> ParsedDocument:
    """Markdown, with its markup: a citation shows what the file says."""
    text, encoding, warnings = _text(source)
    blocks = markdown_blocks(text)
    title = next((text[one.start : one.end].strip("#=- \n") for one in blocks if one.kind == "heading"), "")
    return _document(source, text, blocks, encoding, warnings, title=title[:300])


def read_code(source: Source) -> ParsedDocument:
    """Source code: cut between lines only."""
    text, encoding, warnings = _text(source)
    return _document(source, text, code_blocks(text), encoding, warnings)


def read_rows(source: Source) -> ParsedDocument:
    """CSV and TSV: a row a line, cells parted by bars, whatever the file's own delimiter is."""
    text, encoding, warnings = _text(source)
    csv.field_size_limit(CELL_CHARACTERS_MAX)
    try:
        lines = [" | ".join(" ".join(cell.split()) for cell in row) for row in _rows(source, text) if any(row)]
    except csv.Error as error:
        return _document(source, text, row_blocks(text), encoding, [*warnings, f"Read as plain text: {error}."])
    rendered = "\n".join(lines)
    return _document(source, rendered, row_blocks(rendered), encoding, warnings)


def read_subtitles(source: Source) -> ParsedDocument:
    """SubRip and WebVTT: what is said, with a mark at each new minute."""
    text, encoding, warnings = _text(source)
    said = "\n".join(_said(text))
    if not said:
        return _document(source, text, [], encoding, [*warnings, "No subtitles were found; read as plain text."])
    return _document(source, said, [], encoding, warnings)


def _as_it_is(source: Source, blocks: list[Block]) -> ParsedDocument:
    text, encoding, warnings = _text(source)
    return _document(source, text, blocks, encoding, warnings)


def _text(source: Source) -> tuple[str, str, list[str]]:
    text, encoding, warning = decode(source.data)
    text = clean(text).rstrip()
    if len(text) > source.limits.characters_max:
        raise ParseFailed(
            "too_large", f"The file holds more than {source.limits.characters_max:,} characters of text; split it."
        )
    return text, encoding, [warning] if warning else []


def _document(
    source: Source, text: str, blocks: list[Block], encoding: str, warnings: list[str], title: str = ""
) -> ParsedDocument:
    return ParsedDocument(
        text=text,
        blocks=tuple(blocks),
        title=title,
        mime_type=source.format.mime_type,
        encoding=encoding,
        warnings=tuple(warnings),
    )


def _rows(source: Source, text: str) -> Iterator[list[str]]:
    delimiter = "\t" if source.extension == "tsv" else ","
    # one column, or rows that do not agree, keep the extension's own delimiter
    with contextlib.suppress(csv.Error):
        delimiter = csv.Sniffer().sniff(text[:SNIFF_CHARACTERS], delimiters=",;\t|").delimiter
    # lines keep their ends: a cell in quotation marks may hold some
    return csv.reader(text.splitlines(keepends=True), delimiter=delimiter)


def _said(text: str) -> Iterator[str]:
    minute = -1
    for cue in re.split(r"\n\s*\n", text):
        lines = cue.strip().split("\n")
        at = next((number for number, line in enumerate(lines[:2]) if _TIMES.match(line)), None)
        if at is None or lines[0].startswith(_CUE_HEADS):
            continue
        words = " ".join(filter(None, (_TAGS.sub("", line).strip() for line in lines[at + 1 :])))
        found = _TIMES.match(lines[at])
        if not words or not found:
            continue
        now = int(found[1] or 0) * 60 + int(found[2])
        yield f"[{now // 60}:{now % 60:02}:{found[3]}] {words}" if now != minute else words
        minute = now
