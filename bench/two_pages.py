"""Documents of two pages for the benches: PDF, DOCX, HTML and Markdown in turn, each with a text of its own.

The sentences are those of Python's own documentation, drawn anew for each document from a seed, so that every machine
measures the same and no two documents are alike.
"""

from __future__ import annotations

import html
import random
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from pydoc_data import topics

import msgspec

WORDS_MIN = 800
SENTENCES_PER_PARAGRAPH = (3, 6)
PARAGRAPHS_PER_SECTION = (1, 3)
PDF_LINE_CHARS, PDF_LINE_POINTS, PDF_LINES_PER_PAGE = 100, 13, 56


class Section(msgspec.Struct, frozen=True):
    """A heading and the paragraphs under it."""

    heading: str
    paragraphs: list[str]


class TwoPages(msgspec.Struct, frozen=True):
    """What a document says."""

    title: str
    sections: list[Section]


def sentences() -> list[str]:
    """Sentences of the language reference, each once."""
    parts = [" ".join(part.split()) for topic in topics.topics.values() for part in topic.split("\n\n")]
    found = {text for part in parts for text in re.split(r"(?<=[.!?]) ", part)}
    return sorted(text for text in found if 30 < len(text) < 300 and text[0].isupper())


def write_documents(folder: Path, count: int, *, seed: int) -> list[Path]:
    """So many files."""
    folder.mkdir(parents=True, exist_ok=True)
    chance, known = random.Random(seed), sentences()
    paths = []
    for number in range(count):
        kind, write = list(_WRITERS.items())[number % len(_WRITERS)]
        path = folder / f"document-{seed}-{number:05}.{kind}"
        write(_drawn(chance, known), path)
        paths.append(path)
    return paths


def _drawn(chance: random.Random, known: list[str]) -> TwoPages:
    sections: list[Section] = []
    words = 0
    while words < WORDS_MIN:
        paragraphs = [
            " ".join(chance.sample(known, chance.randint(*SENTENCES_PER_PARAGRAPH)))
            for _ in range(chance.randint(*PARAGRAPHS_PER_SECTION))
        ]
        sections.append(Section(_heading(chance, known), paragraphs))
        words += sum(len(paragraph.split()) for paragraph in paragraphs)
    return TwoPages(_heading(chance, known), sections)


def _heading(chance: random.Random, known: list[str]) -> str:
    return " ".join(re.findall(r"[A-Za-z]+", chance.choice(known))[:5])


def _pdf(said: TwoPages, path: Path) -> None:
    from reportlab.pdfgen.canvas import Canvas

    lines = [said.title, ""]
    for section in said.sections:
        lines += [section.heading, ""]
        for paragraph in section.paragraphs:
            lines += [*textwrap.wrap(paragraph, PDF_LINE_CHARS), ""]
    canvas = Canvas(str(path))
    for start in range(0, len(lines), PDF_LINES_PER_PAGE):
        text = canvas.beginText(50, 790)
        text.setFont("Helvetica", 10, PDF_LINE_POINTS)
        for line in lines[start : start + PDF_LINES_PER_PAGE]:
            text.textLine(line)
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()


def _docx(said: TwoPages, path: Path) -> None:
    from docx import Document

    document = Document()
    document.add_heading(said.title, 0)
    for section in said.sections:
        document.add_heading(section.heading, 1)
        for paragraph in section.paragraphs:
            document.add_paragraph(paragraph)
    document.save(str(path))


def _html(said: TwoPages, path: Path) -> None:
    parts = [f"<h1>{html.escape(said.title)}</h1>"]
    for section in said.sections:
        parts.append(f"<h2>{html.escape(section.heading)}</h2>")
        parts += [f"<p>{html.escape(paragraph)}</p>" for paragraph in section.paragraphs]
    head = f"<title>{html.escape(said.title)}</title>"
    path.write_text(f"<!doctype html><html><head>{head}</head><body>{''.join(parts)}</body></html>", encoding="utf-8")


def _markdown(said: TwoPages, path: Path) -> None:
    parts = [f"# {said.title}"]
    for section in said.sections:
        parts += [f"## {section.heading}", *section.paragraphs]
    path.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


_WRITERS: dict[str, Callable[[TwoPages, Path], None]] = {"pdf": _pdf, "docx": _docx, "html": _html, "md": _markdown}
