"""The documents of the benches are what their figures say."""

from __future__ import annotations

from pathlib import Path

from pypdf import PdfReader

from bench.embeddings import read_table
from bench.two_pages import write_documents


def test_documents_have_two_pages_and_a_text_of_their_own(tmp_path: Path) -> None:
    """Formats in turn, two pages each, none like another, and the same on every machine."""
    paths = write_documents(tmp_path / "a", 8, seed=1)
    assert [path.suffix for path in paths] == [".pdf", ".docx", ".html", ".md"] * 2
    assert [len(PdfReader(path).pages) for path in paths if path.suffix == ".pdf"] == [2, 2]
    said = [path.read_text(encoding="utf-8") for path in paths if path.suffix == ".md"]
    assert all(800 <= len(text.split()) <= 1200 for text in said)
    assert said[0] != said[1]
    again = write_documents(tmp_path / "b", 4, seed=1)
    assert again[3].read_text(encoding="utf-8") == said[0]


def test_a_printed_table_is_read_as_it_stands() -> None:
    """What the library's bench prints becomes a table of ours."""
    printed = "A machine.\n\n| engine | ms |\n|---|---|\n| ours | 1.1 |\n| theirs | 11.5 |\n"
    assert read_table(printed) == (["engine", "ms"], [["ours", "1.1"], ["theirs", "11.5"]])
