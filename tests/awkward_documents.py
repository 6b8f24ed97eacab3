"""The awkward corpus' documents: PDF, office, books, web pages, notebooks, mails. See awkward_files.py."""

from __future__ import annotations

import io
import json
import zipfile
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from awkward_files import ENGLISH, TEXTS, TRICKS, Case, put, zip_of

SECRET = "clownfish"


def pdf(pages: list[str], title: str = "Reef report") -> bytes:
    """A PDF with a heading and some text on each page."""
    from reportlab.lib.pagesizes import A4
    from reportlab.pdfgen.canvas import Canvas

    memory = io.BytesIO()
    canvas = Canvas(memory, pagesize=A4)
    canvas.setTitle(title)
    for number, text in enumerate(pages, start=1):
        canvas.setFont("Helvetica-Bold", 20)
        canvas.drawString(72, 780, f"Chapter {number}")
        canvas.setFont("Helvetica", 11)
        for line, at in enumerate(range(0, len(text), 80)):
            canvas.drawString(72, 740 - 14 * line, text[at : at + 80])
        canvas.showPage()
    canvas.save()
    return memory.getvalue()


def scan(words: str) -> bytes:
    """A PDF that is one picture of some words."""
    from PIL import Image, ImageDraw, ImageFont
    from reportlab.lib.pagesizes import A4
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    picture = Image.new("L", (1240, 400), 255)
    ImageDraw.Draw(picture).text((60, 150), words, font=ImageFont.load_default(64), fill=0)
    memory = io.BytesIO()
    canvas = Canvas(memory, pagesize=A4)
    canvas.drawImage(ImageReader(picture), 40, 500, 500, 160)
    canvas.save()
    return memory.getvalue()


def locked(data: bytes) -> bytes:
    """A PDF that asks for a password."""
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(clone_from=PdfReader(io.BytesIO(data)))
    writer.encrypt(SECRET, algorithm="AES-256")
    memory = io.BytesIO()
    writer.write(memory)
    return memory.getvalue()


def word() -> bytes:
    """A Word file with headings, a table, a list and a second page."""
    import docx

    document = docx.Document()
    document.add_heading("Reef handbook", 1)
    document.add_paragraph("Corals grow slowly. " * 5)
    document.add_heading("Depths", 2)
    table = document.add_table(rows=3, cols=2)
    for row, cells in enumerate((("name", "depth"), ("clownfish", "12"), ("lantern shark", "300"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    document.add_paragraph("look but do not touch", style="List Bullet")
    document.add_page_break()
    document.add_paragraph("secondpageword")
    return _saved(document)


def slides() -> bytes:
    """Three slides."""
    from pptx import Presentation

    show = Presentation()
    for number in range(1, 4):
        slide = show.slides.add_slide(show.slide_layouts[1])
        slide.shapes.title.text = f"Title {number}"
        slide.placeholders[1].text = f"slideword{number}"
    return _saved(show)


def sheets(far: bool = False) -> bytes:
    """Two sheets, with a formula; `far`: a single cell at the very end of the second."""
    import openpyxl

    book = openpyxl.Workbook()
    book.active.title = "Fish"
    for row in (("name", "depth"), ("clownfish", 12), ("shark", "=B2*10")):
        book.active.append(row)
    second = book.create_sheet("Rocks")
    second["A1"] = "granite"
    if far:
        second["XFD1048576"] = "farcell"
    return _saved(book)


def _saved(document: Any) -> bytes:
    memory = io.BytesIO()
    document.save(memory)
    return memory.getvalue()


_OFFICE = "urn:oasis:names:tc:opendocument:xmlns:office:1.0"
_TEXT = "urn:oasis:names:tc:opendocument:xmlns:text:1.0"
_TABLE = "urn:oasis:names:tc:opendocument:xmlns:table:1.0"


def open_document(kind: str, body: str, manifest: str = "<m/>") -> bytes:
    """An OpenDocument file around a body."""
    content = (
        f'<?xml version="1.0"?><office:document-content xmlns:office="{_OFFICE}" xmlns:text="{_TEXT}" '
        f'xmlns:table="{_TABLE}" office:version="1.2"><office:body>{body}</office:body></office:document-content>'
    )
    mimetype = f"application/vnd.oasis.opendocument.{kind}"
    return zip_of({"mimetype": mimetype, "content.xml": content, "META-INF/manifest.xml": manifest})


ODT = open_document(
    "text", "<office:text><text:h text:outline-level='1'>Lagoon</text:h><text:p>shallow water</text:p></office:text>"
)
ODS = open_document(
    "spreadsheet",
    "<office:spreadsheet><table:table table:name='Tides'><table:table-row>"
    "<table:table-cell office:value-type='string'><text:p>springtide</text:p></table:table-cell>"
    "</table:table-row></table:table></office:spreadsheet>",
)


def book() -> bytes:
    """An EPUB with two chapters."""
    page = '<html xmlns="http://www.w3.org/1999/xhtml"><body><h1>Part {0}</h1><p>chapterword{0}</p></body></html>'
    items = "".join(f'<item id="c{n}" href="c{n}.xhtml" media-type="application/xhtml+xml"/>' for n in (1, 2))
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0" unique-identifier="i"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:identifier id="i">x</dc:identifier><dc:title>Tides</dc:title>'
        f'</metadata><manifest>{items}</manifest><spine><itemref idref="c1"/><itemref idref="c2"/></spine></package>'
    )
    container = (
        '<container version="1.0" xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="p.opf" media-type="application/oebps-package+xml"/></rootfiles></container>'
    )
    chapters: dict[str, bytes | str] = {f"c{n}.xhtml": page.format(n) for n in (1, 2)}
    return zip_of(
        {"mimetype": "application/epub+zip", "META-INF/container.xml": container, "p.opf": package} | chapters
    )


def mail(attached: list[tuple[str, bytes]], subject: str = "Reef news") -> bytes:
    """A mail with attachments."""
    message = EmailMessage()
    message["From"], message["To"], message["Subject"] = "ann@example.org", "bob@example.org", subject
    message.set_content("Dear Bob,\nthe coral is well.\n")
    for name, data in attached:
        message.add_attachment(data, maintype="application", subtype="octet-stream", filename=name)
    return message.as_bytes()


def forwarded(depth: int) -> bytes:
    """A mail in a mail in a mail."""
    message = EmailMessage()
    message["From"], message["Subject"] = "ann@example.org", f"level {depth}"
    message.set_content(f"depthword{depth}")
    if depth:
        from email import message_from_bytes, policy

        inner = message_from_bytes(forwarded(depth - 1), policy=policy.default)
        message.add_attachment(inner)
    return message.as_bytes()


NOTEBOOK = json.dumps({
    "cells": [
        {"cell_type": "markdown", "metadata": {}, "source": ["# Tides\n", "markdownword"]},
        {"cell_type": "code", "metadata": {}, "execution_count": 1, "source": ["depth = 12"],
         "outputs": [{"output_type": "stream", "name": "stdout", "text": ["printedword"]}]},
    ],
    "metadata": {}, "nbformat": 4, "nbformat_minor": 5,
})  # fmt: skip
HTML = (
    "<!DOCTYPE html><html><head><title>Reef page</title><script>var hidden=1</script><style>.x{color:red}</style></head>"
    "<body><h1>Shore</h1><p>visible &amp; readable</p><table><tr><th>name</th></tr><tr><td>crab</td></tr></table>"
    "<script>alert('hidden')</script></body></html>"
)
TEX = "\\documentclass{article}\n\\begin{document}\n\\section{Currents}\nWater \\emph{flows} north.\n\\end{document}\n"
RTF = r"{\rtf1\ansi\ansicpg1252 Caf\'e9 by the {\b reef}.\par Second paragraph.}"
FB2 = (
    '<?xml version="1.0"?><FictionBook xmlns="http://www.gribuser.ru/xml/fictionbook/2.0"><body><section>'
    "<title><p>Waves</p></title><p>fictionword</p></section></body></FictionBook>"
)
ENCRYPTED_MANIFEST = "<manifest><file-entry><encryption-data/></file-entry></manifest>"
# Word and Excel keep an encrypted file in an OLE container, with this stream in its directory
OLE_LOCKED = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(504) + "EncryptedPackage".encode("utf-16-le") + bytes(2000)
MESSAGES = b"".join(b"From ann@example.org Mon Jan  1 00:00:00 2024\n" + mail([], f"Issue {n}") + b"\n" for n in (1, 2))


def _flip(data: bytes) -> bytes:
    """One byte in the packed content is another."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        info = archive.getinfo("content.xml")
    at = info.header_offset + 30 + len("content.xml") + info.compress_size // 2
    return data[:at] + bytes([data[at] ^ 0x55]) + data[at + 1 :]


def later(make: Any, *arguments: Any) -> Any:
    """A file that is made only when it is needed: these libraries are slow to import."""

    def write(path: Path) -> None:
        path.write_bytes(make(*arguments))

    return write


def _cut(make: Any, share: float) -> bytes:
    data: bytes = make() if callable(make) else make
    return data[: int(len(data) * share)]


TWO_PAGES = [ENGLISH + "firstpageword", ENGLISH * 4 + "secondpageword"]
PAGES_3000 = [f"marker{number}x" for number in range(1, 3001)]
DOCUMENTS = [
    Case(name="report.pdf", make=later(pdf, TWO_PAGES), words=("coral",), pages={"firstpageword": 1, "secondpageword": 2}, headings=("Chapter 1", "Chapter 2"), language="en"),
    Case(name="pages-3000.pdf", make=later(pdf, PAGES_3000), pages={"marker1x": 1, "marker1500x": 1500, "marker3000x": 3000}),
    Case(name="pages-5001.pdf", make=later(pdf, ["x"] * 5001), code="too_many_pages", says="5,001"),
    Case(name="locked.pdf", make=later(lambda: locked(pdf(TWO_PAGES))), code="encrypted", says="password"),
    Case(name="cut.pdf", make=later(lambda: _cut(pdf(TWO_PAGES), 0.3)), code="corrupt|no_text"),
    Case(name="head-only.pdf", make=put(b"%PDF-1.7\n"), code="corrupt"),
    Case(name="junk-before.pdf", make=later(lambda: b"HTTP/1.1 200 OK\r\n\r\n" + pdf(TWO_PAGES)), words=("firstpageword",)),
    Case(name="report.txt", make=later(pdf, TWO_PAGES), words=("firstpageword",), says="the file is .pdf"),
    Case(name="report.pdf.exe", make=later(pdf, TWO_PAGES), words=("firstpageword",)),
    Case(name="scan.pdf", make=later(scan, "Scanned coral"), words=("Scanned coral",), code="no_text", says="tesseract"),
    Case(name="handbook.docx", make=later(word), words=("clownfish | 12", "look but do not touch"), pages={"secondpageword": 2}, headings=("Reef handbook", "Depths")),
    Case(name="cut.docx", make=later(lambda: _cut(word(), 0.7)), code="corrupt"),
    Case(name="locked.docx", make=put(OLE_LOCKED), code="encrypted"),
    Case(name="handbook.pdf", make=later(word), words=("clownfish | 12",), says="is .docx"),
    Case(name="show.pptx", make=later(slides), pages={"slideword1": 1, "slideword3": 3}, headings=("Title 1",)),
    Case(name="fish.xlsx", make=later(sheets), words=("clownfish | 12",), pages={"granite": 2}, headings=("Fish",)),
    Case(name="far-away.xlsx", make=later(sheets, True), words=("granite",)),
    Case(name="lagoon.odt", make=put(ODT), words=("shallow water",), headings=("Lagoon",)),
    Case(name="flipped.odt", make=put(_flip(ODT)), code="corrupt", says="damaged"),
    Case(name="locked.odt", make=put(open_document("text", "<x/>", ENCRYPTED_MANIFEST)), code="encrypted"),
    Case(name="tides.ods", make=put(ODS), words=("springtide",)),
    Case(name="tides.epub", make=later(book), words=("chapterword1", "chapterword2"), headings=("Part 1",)),
    Case(name="cafe.rtf", make=put(RTF), words=("Café by the reef",), absent=("\\par",)),
    Case(name="shore.html", make=put(HTML), words=("visible & readable", "crab"), absent=("hidden", "color:red"), headings=("Shore",)),
    Case(name="latin1.html", make=put("<html><head><meta charset='iso-8859-1'></head><body>déjà vu à l'été</body></html>".encode("latin-1")), words=("déjà vu à l'été",), encoding="iso-8859-1"),
    Case(name="unmarked.html", make=put(("<html><body>" + "L'été était déjà là, près de l'hôtel. " * 3 + "</body></html>").encode("utf-16")), words=("L'été était déjà là",), language="fr"),
    Case(name="currents.tex", make=put(TEX), words=("flows", "north"), headings=("Currents",)),
    Case(name="tides.ipynb", make=put(NOTEBOOK), words=("markdownword", "depth = 12", "printedword")),
    Case(name="broken.ipynb", make=put('{"cells": [tru'), code="corrupt"),
    Case(name="notes.org", make=put("* Harbour\nquiet boats\n** Pier\nlong\n"), words=("quiet boats",), headings=("Harbour", "Pier")),
    Case(name="notes.rst", make=put("Harbour\n=======\n\nquiet boats\n"), words=("quiet boats",), headings=("Harbour",)),
    Case(name="waves.fb2", make=put(FB2), words=("fictionword",)),
    Case(name="drawing.svg", make=put('<svg xmlns="http://www.w3.org/2000/svg"><text>lighthouse</text></svg>'), words=("lighthouse",)),
    Case(name="news.eml", make=put(mail([("notes.md", b"# Attached\n\nnoteword"), ("tool.exe", b"\x7fELF\0\1")])), words=("the coral is well", "noteword", "bob@example.org"), headings=("Reef news", "notes.md"), says="tool.exe"),
    Case(name="attached.eml", make=later(lambda: mail([("report.pdf", pdf(TWO_PAGES))])), words=("secondpageword",)),
    Case(name="many-attached.eml", make=put(mail([(f"{n}.txt", b"word") for n in range(150)])), words=("99.txt",), says="too many"),
    Case(name="deep.eml", make=put(forwarded(8)), words=("depthword8", "depthword7"), says="nested"),
    Case(name="letters.mbox", make=put(MESSAGES), words=("the coral is well",), headings=("Issue 1", "Issue 2")),
    Case(name="no-mail.eml", make=put("just some words"), code="corrupt"),
]  # fmt: skip
CASES = [*TEXTS, *TRICKS, *DOCUMENTS]
