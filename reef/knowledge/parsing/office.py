"""Office documents, books, web pages, notebooks and markup, by way of xberg. Nothing else imports that library.

It gives the document as a tree of headings, paragraphs, tables and so on; the text is built from these here, so that
every block's span is known. It is called with bytes and a media type only, never with an address: it fetches nothing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import msgspec

from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.decode import declared_encoding, decode
from reef.knowledge.parsing.draft import Draft, clean
from reef.knowledge.parsing.source import Source
from reef.ports import ParseFailed

if TYPE_CHECKING:
    from xberg import ExtractedDocument

TEXTUAL = frozenset({"markup", "notebook", "drawing"})
_SECRET = ("password", "encrypt")
TABLE_CELLS_MAX = 2_000_000


class _Cell(msgspec.Struct):
    content: str
    row: int
    col: int


class _Grid(msgspec.Struct):
    rows: int = 0
    cols: int = 0
    cells: list[_Cell] = []


class _Entry(msgspec.Struct):
    key: str
    value: str


class _Node(msgspec.Struct):
    """A node's content. The library's Python object gives it out as JSON only."""

    node_type: str
    text: str = ""
    level: int = 1
    grid: _Grid = msgspec.field(default_factory=_Grid)
    term: str = ""
    definition: str = ""
    content: str = ""
    entries: list[_Entry] = []


_decode = msgspec.json.Decoder(_Node).decode


def read_office(source: Source) -> ParsedDocument:
    """The document with its structure."""
    data, encoding, draft = source.data, "", source.draft()
    if source.format.family in TEXTUAL:
        # the library takes all text for UTF-8
        text, encoding, warning = decode(data, declared_encoding(data))
        data = clean(text).encode()
        draft.warnings += [warning] if warning else []
    found = extract(data, source.format.mime_type, source)
    draft.title = found.metadata.title or ""
    nodes = list(found.document.nodes) if found.document else []
    numbered = source.format.pages
    for place, node in enumerate(nodes):
        page = _page(nodes, place) if numbered else None
        if page:
            draft.page(page)
        _add(draft, _decode(str(node.content)), heads=source.format.family != "drawing")
    document = draft.finish(mime_type=source.format.mime_type, encoding=encoding)
    if document.text or not found.content.strip():
        return document
    draft.add(found.content)
    return draft.finish(mime_type=source.format.mime_type, encoding=encoding)


def extract(data: bytes, mime_type: str, source: Source) -> ExtractedDocument:
    """Call the library. Its complaints become ParseFailed."""
    import xberg

    limits = source.limits
    config = xberg.ExtractionConfig(
        use_cache=False,
        disable_ocr=True,
        enable_quality_processing=False,
        include_document_structure=True,
        output_format="markdown",
        max_archive_depth=0,
        extraction_timeout_secs=max(1, int(limits.time_s)),
        security_limits=xberg.SecurityLimits(
            max_archive_size=limits.unpacked_bytes_max,
            max_files_in_archive=limits.entries_max,
            max_content_size=limits.unpacked_bytes_max,
            max_table_cells=TABLE_CELLS_MAX,
            max_pages=limits.pages_max,
        ),
    )
    wanted = xberg.ExtractInput(kind=xberg.ExtractInputKind.BYTES, bytes=data, mime_type=mime_type)
    try:
        result = asyncio.run(xberg.extract(wanted, config))
    except (RuntimeError, ValueError, OSError) as error:
        raise _failed(str(error)) from None
    if result.errors:
        raise _failed(result.errors[0].message)
    if not result.results:
        raise ParseFailed("corrupt", "Nothing could be read from the file. Save it again or send it as PDF.")
    return result.results[0]


def _failed(message: str) -> ParseFailed:
    if any(word in message.lower() for word in _SECRET):
        return ParseFailed("encrypted", "The file is protected by a password. Remove the password and send it again.")
    sentence = message.strip().splitlines()[0][:200].rstrip(".") if message.strip() else "no reason given"
    return ParseFailed("corrupt", f"The file cannot be read: {sentence}. Save it again or send it as PDF.")


def _page(nodes: list[Any], place: int) -> int | None:
    """A sheet's heading carries no number, the table below it does."""
    for node in nodes[place : place + 3]:
        if node.page:
            return int(node.page)
    return None


def _add(draft: Draft, node: _Node, *, heads: bool) -> None:
    kind = node.node_type
    if kind in {"heading", "title"}:
        if heads:
            draft.add(node.text, "heading", node.level)
    elif kind == "table":
        draft.add(_rows(node.grid), "table")
    elif kind == "list_item":
        draft.add(node.text, "list")
    elif kind in {"code", "formula"}:
        draft.add(node.text, "code")
    elif kind == "definition_item":
        draft.add(f"{node.term}: {node.definition}")
    elif kind == "metadata_block":
        draft.add("\n".join(f"{entry.key}: {entry.value}" for entry in node.entries))
    elif kind == "raw_block":
        draft.add(node.content)
    elif kind in {"paragraph", "footnote", "comment", "citation"}:
        draft.add(node.text)


def _rows(grid: _Grid) -> str:
    rows: list[list[str]] = [[""] * grid.cols for _ in range(grid.rows)]
    for cell in grid.cells:
        rows[cell.row][cell.col] = " ".join(cell.content.split())
    return "\n".join(" | ".join(row).rstrip(" |") for row in rows if any(row))
