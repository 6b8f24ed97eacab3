"""PDF by way of PDFium: the text of each page, headings by the size of their letters, scans by way of OCR."""

from __future__ import annotations

import ctypes
import re
from collections import Counter
from typing import Any

from reef.knowledge.model import BlockKind, ParsedDocument
from reef.knowledge.parsing import ocr
from reef.knowledge.parsing.draft import Draft
from reef.knowledge.parsing.source import Source
from reef.ports import ParseFailed

# PDFium's mark for a hyphen that is there only because the line ends
_SOFT_HYPHEN = re.compile("[\x02\ufffe\xad]\r?\n?")
HEADING_CHARACTERS_MAX = 120
HEADING_FACTOR = 1.15
"""Letters this much taller than those of the body make a heading."""
HEADING_SIZES_MAX = 4
SCAN_DPI = 200
PIXELS_MAX = 40_000_000
"""Of one page drawn for OCR."""
_ERROR_PASSWORD = 4

Line = tuple[str, float]
"""A line and the height of its first letter, in points."""


def read_pdf(source: Source) -> ParsedDocument:
    """The document; encrypted, damaged or over-long ones end in ParseFailed."""
    pdf = _open(source.data)
    try:
        count = len(pdf)
        if count > source.limits.pages_max:
            raise ParseFailed(
                "too_many_pages",
                f"The file has {count:,} pages; at most {source.limits.pages_max:,} are read. Split it.",
            )
        draft = source.draft()
        draft.title = pdf.get_metadata_value("Title")
        pages = _pages(pdf, source, draft)
    finally:
        pdf.close()
    levels = _levels(pages)
    for number, lines in enumerate(pages, start=1):
        draft.page(number)
        _add_lines(draft, lines, levels)
    return draft.finish(mime_type=source.format.mime_type)


def _open(data: bytes) -> Any:
    import pypdfium2

    try:
        return pypdfium2.PdfDocument(data)
    except pypdfium2.PdfiumError as error:
        if getattr(error, "err_code", None) == _ERROR_PASSWORD or "password" in str(error).lower():
            raise ParseFailed(
                "encrypted", "The PDF is protected by a password. Remove the password and send it again."
            ) from None
        raise ParseFailed(
            "corrupt", "The PDF is damaged and cannot be opened. Save it again or send another copy."
        ) from None


def _pages(pdf: Any, source: Source, draft: Draft) -> list[list[Line]]:
    import pypdfium2

    pages: list[list[Line]] = []
    blank: list[int] = []
    characters = 0
    for number in range(len(pdf)):
        try:
            page = pdf[number]
        except pypdfium2.PdfiumError:
            draft.warnings.append(f"Page {number + 1} is damaged and was left out.")
            pages.append([])
            continue
        lines = _lines(page)
        characters += sum(len(line) for line, _ in lines)
        if characters > source.limits.characters_max:
            page.close()
            break  # the draft refuses it with the right words
        if not lines and _has_picture(page):
            blank.append(number)
        pages.append(lines)
        page.close()
    if blank:
        _read_scans(pdf, blank, pages, source, draft)
    return pages


def _lines(page: Any) -> list[Line]:
    from pypdfium2 import raw

    textpage = page.get_textpage()
    try:
        text = _SOFT_HYPHEN.sub("", textpage.get_text_range())
        box = raw.FS_RECTF()
        lines, at = [], 0
        for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n"):
            bare = line.strip()
            if bare:
                known = raw.FPDFText_GetLooseCharBox(textpage, at + len(line) - len(line.lstrip()), ctypes.byref(box))
                lines.append((bare, round(abs(box.top - box.bottom), 1) if known else 0.0))
            else:
                lines.append(("", 0.0))
            at += len(line) + 2  # PDFium counts both characters of its line breaks
        return lines if any(line for line, _ in lines) else []
    finally:
        textpage.close()


def _has_picture(page: Any) -> bool:
    from pypdfium2 import raw

    return any(True for _ in page.get_objects(filter=(raw.FPDF_PAGEOBJ_IMAGE, raw.FPDF_PAGEOBJ_PATH), max_depth=3))


def _read_scans(pdf: Any, blank: list[int], pages: list[list[Line]], source: Source, draft: Draft) -> None:
    if not ocr.installed():
        draft.warnings.append(f"{len(blank)} pages are pictures without text and were left out: {ocr.ADVICE}")
        return
    for number in blank[: source.limits.ocr_pages_max]:
        page = pdf[number]
        width, height = page.get_size()
        scale = min(SCAN_DPI / 72, (PIXELS_MAX / max(width * height, 1.0)) ** 0.5)
        bitmap = page.render(scale=scale, grayscale=True)
        picture = ocr.graymap(bytes(bitmap.buffer), bitmap.width, bitmap.height, bitmap.stride)
        page.close()
        pages[number] = [(line.strip(), 0.0) for line in ocr.recognise(picture, source.ocr_languages).split("\n")]
    if len(blank) > source.limits.ocr_pages_max:
        draft.warnings.append(f"Only {source.limits.ocr_pages_max} of {len(blank)} scanned pages were read.")


def _levels(pages: list[list[Line]]) -> dict[float, int]:
    """Heights of letters that make a heading, with its level."""
    heights: Counter[float] = Counter()
    for lines in pages:
        for line, height in lines:
            heights[height] += len(line)
    heights.pop(0.0, None)
    if not heights:
        return {}
    body = heights.most_common(1)[0][0]
    total = heights.total()
    tall = sorted(
        (one for one, count in heights.items() if one > body * HEADING_FACTOR and count < total / 4), reverse=True
    )
    return {height: level for level, height in enumerate(tall[:HEADING_SIZES_MAX], start=1)}


def _add_lines(draft: Draft, lines: list[Line], levels: dict[float, int]) -> None:
    text: list[str] = []
    heading: list[str] = []
    level = 0

    def flush(parts: list[str], kind: BlockKind, depth: int = 0) -> None:
        draft.add("\n".join(parts), kind, depth)
        parts.clear()

    for line, height in lines:
        found = levels.get(height, 0) if 0 < len(line) <= HEADING_CHARACTERS_MAX else 0
        if found != level and heading:
            flush(heading, "heading", level)
        level = found
        if found:
            flush(text, "text")
            heading.append(line)
        else:
            text.append(line)
    flush(heading, "heading", level)
    flush(text, "text")
