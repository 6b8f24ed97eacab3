"""The nouns of knowledge: a parsed document, its chunks, and the states of a file on its way. Plain values only."""

from __future__ import annotations

from typing import Literal

import msgspec

SHARED_STORE = "shared"
"""The store every persona reads. Any other store is named by the id of the persona that owns it."""

DocumentState = Literal[
    "receiving", "queued", "parsing", "embedding", "indexing", "indexed", "failed", "cancelled", "replaced", "deleted"
]
"""`receiving`: bytes are missing yet. `replaced`: a newer upload of the same name took its place, or its members did.
`deleted`: nobody sees it any more; the row goes when its entries have left the index."""
UploadState = Literal["open", "running", "paused", "cancelled", "done"]
"""`open`: more files may come."""
UPLOAD_ENDED = ("done", "cancelled")
FAILURE_CODES = (
    "empty", "unsupported", "encrypted", "corrupt", "too_large", "too_many_pages", "too_slow", "memory", "no_text",
    "no_room", "lost", "embedding", "internal",
)  # fmt: skip
"""Why a file failed, for programs; the sentence beside it is for people."""
RETRYABLE_CODES = frozenset({"corrupt", "too_slow", "memory", "no_text", "no_room", "lost", "embedding", "internal"})
"""Failures that may pass without other bytes: the machine was busy or full, a reader broke down, OCR was not installed
yet, the original was brought back. The rest lies in the bytes or the name: it would be refused the same way again.
"""
MOVING_STATES = ("queued", "parsing", "embedding", "indexing")
"""Something will happen to a document in one of these without anybody asking."""
UNSETTLED_STATES = ("receiving", *MOVING_STATES)
BlockKind = Literal["text", "heading", "table", "code", "list"]


class Page(msgspec.Struct, frozen=True):
    """A page (or sheet, or slide) as a span of the document's text. `number` counts from 1."""

    number: int
    start: int
    end: int


class PageStart(msgspec.Struct, frozen=True):
    """A page that begins inside a passage. `start` is its place in the passage's text."""

    number: int
    start: int


class Block(msgspec.Struct, frozen=True):
    """A piece of the text that should not be cut inside if that can be helped."""

    kind: BlockKind
    start: int
    end: int
    level: int = 0
    """Of a heading: 1 is the topmost."""


class ParsedDocument(msgspec.Struct, frozen=True, kw_only=True):
    """A file as text. All spans are half-open and count Unicode code points of `text`."""

    text: str
    pages: tuple[Page, ...] = ()
    """Empty where the format has no pages."""
    blocks: tuple[Block, ...] = ()
    title: str = ""
    language: str = ""
    """ISO 639-1, empty where it could not be told."""
    mime_type: str = ""
    encoding: str = ""
    warnings: tuple[str, ...] = ()


class Chunk(msgspec.Struct, frozen=True, kw_only=True):
    """A passage that is found and cited as one. `text` is `document.text[start:end]`."""

    number: int
    text: str
    start: int
    end: int
    tokens: int
    page_first: int | None = None
    page_last: int | None = None
    page_starts: tuple[PageStart, ...] = ()
    """Of the pages that begin behind its first character."""
    headings: tuple[str, ...] = ()
    """Titles of the sections it stands in, outermost first."""
    windows: tuple[tuple[int, int], ...] = ()
    """Spans within the chunk's text, each no longer than the embedding model reads; together they cover it."""


class Passage(msgspec.Struct, frozen=True, kw_only=True):
    """A chunk that was found, with what a citation needs. `start` and `end` are its place in the document's text."""

    chunk_id: int
    document_id: str
    name: str
    title: str
    text: str
    start: int
    end: int
    tokens: int
    page_first: int | None = None
    page_last: int | None = None
    page_starts: tuple[PageStart, ...] = ()
    headings: tuple[str, ...] = ()
    score: float
    """By which passages are ordered, higher is better."""
    similarity: float | None = None
    """Cosine with the question; None where nothing was compared."""
    why: str = ""
    """How it was found, for a person."""
