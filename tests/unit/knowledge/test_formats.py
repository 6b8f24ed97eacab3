"""The table of formats: large, consistent, and the one in the documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from reef.knowledge.formats import FORMATS, extension_of, format_of, markdown_table, refusal
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.reading import _READERS

DOCUMENT = Path(__file__).resolve().parents[3] / "docs" / "formats.md"


def test_more_than_seventy_extensions_are_read() -> None:
    """Each with a media type, a title and a reader of its family."""
    assert len(FORMATS) >= 70
    for extension, one in FORMATS.items():
        assert extension == one.extension == extension.lower()
        assert "/" in one.mime_type
        assert one.title
        assert one.family in _READERS


def test_the_documentation_has_this_table() -> None:
    """docs/formats.md holds the table word for word; run `python -m reef.knowledge.formats` to see it."""
    assert markdown_table() in DOCUMENT.read_text(encoding="utf-8")


def test_the_documentation_has_these_limits() -> None:
    """Every limit is named there with its value."""
    text = DOCUMENT.read_text(encoding="utf-8")
    for name in ParseLimits.__struct_fields__:
        assert f"`{name}`" in text


@pytest.mark.parametrize(
    ("name", "extension", "known"),
    [
        ("a.PDF", "pdf", "pdf"), ("dir.x/readme", "", "txt"), ("C:\\x\\b.Docx", "docx", "docx"), (".env", "", ""),
        ("archive.tar.gz", "gz", ""), ("Makefile", "", "mk"), ("a.b.c.md", "md", "md"), ("trailing.", "", ""),
    ],
)  # fmt: skip
def test_names(name: str, extension: str, known: str) -> None:
    """The last extension counts, in any case of letters; some files are known by their whole name."""
    assert extension_of(name) == extension
    found = format_of(name)
    assert (found.extension if found else "") == known


def test_a_refusal_says_what_to_do() -> None:
    """It names the file, the kind, and the way out."""
    assert "song.mp3" in refusal("song.mp3")
    assert ".mp3" in refusal("song.mp3")
    assert "docs/formats.md" in refusal("song.mp3")
