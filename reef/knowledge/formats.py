"""Which files can be read, as one table: extension, media type, family, whether it has pages.

The documentation's table and the page's list of accepted files come from here. Nothing here opens a file; what a file
really is, whatever its name says, is told by reef.knowledge.parsing.sniff.
"""

from __future__ import annotations

from typing import Literal

import msgspec

Family = Literal[
    "text", "markdown", "code", "data", "rows", "subtitles", "markup", "office", "slides", "sheets", "book", "notebook",
    "mail", "mailbox", "pdf", "image", "drawing",
]  # fmt: skip
"""How a file is read: each family has one reader in reef.knowledge.parsing."""


class Format(msgspec.Struct, frozen=True):
    """One extension that is accepted."""

    extension: str
    """Without the dot, in lower case."""
    mime_type: str
    family: Family
    pages: bool = False
    """Whether pages, slides or sheets can be told and cited."""
    title: str = ""
    """For people."""


_OPEN_XML = "application/vnd.openxmlformats-officedocument"
_OPEN_DOCUMENT = "application/vnd.oasis.opendocument"
_ROWS: tuple[tuple[Family, bool, str], ...] = (
    ("text", False, "txt|text/plain|Plain text; text|text/plain|Plain text; log|text/plain|Log"),
    ("markdown", False, """md|text/markdown|Markdown; markdown|text/markdown|Markdown; mdx|text/mdx|MDX;
        rmd|text/x-r-markdown|R Markdown; qmd|text/x-quarto|Quarto"""),
    ("markup", False, """html|text/html|HTML; htm|text/html|HTML; xhtml|application/xhtml+xml|XHTML;
        rst|text/prs.fallenstein.rst|reStructuredText; org|text/org|Org; adoc|text/asciidoc|AsciiDoc;
        asciidoc|text/asciidoc|AsciiDoc; tex|application/x-latex|LaTeX; latex|application/x-latex|LaTeX;
        typ|text/vnd.typst|Typst; dj|text/x-djot|Djot; docbook|application/docbook+xml|DocBook;
        jats|application/x-jats+xml|JATS; opml|application/xml+opml|OPML; bib|application/x-bibtex|BibTeX;
        ris|application/x-research-info-systems|RIS"""),
    ("data", False, """json|application/json|JSON; jsonl|application/x-ndjson|JSON Lines;
        ndjson|application/x-ndjson|JSON Lines; geojson|application/geo+json|GeoJSON; yaml|application/yaml|YAML;
        yml|application/yaml|YAML; toml|application/toml|TOML; ini|text/plain|INI; cfg|text/plain|Configuration;
        conf|text/plain|Configuration; properties|text/plain|Java properties; xml|application/xml|XML;
        kml|application/vnd.google-earth.kml+xml|KML; ics|text/calendar|Calendar; vcf|text/vcard|Contacts"""),
    ("rows", False, "csv|text/csv|CSV; tsv|text/tab-separated-values|TSV"),
    ("subtitles", False, "srt|application/x-subrip|SubRip; vtt|text/vtt|WebVTT"),
    ("office", True, f"docx|{_OPEN_XML}.wordprocessingml.document|Word"),
    ("office", False, f"""docm|application/vnd.ms-word.document.macroEnabled.12|Word;
        dotx|{_OPEN_XML}.wordprocessingml.template|Word template; doc|application/msword|Word 97;
        dot|application/msword|Word 97 template; odt|{_OPEN_DOCUMENT}.text|OpenDocument text;
        rtf|application/rtf|Rich text; wpd|application/vnd.wordperfect|WordPerfect; hwp|application/x-hwp|Hangul;
        hwpx|application/haansofthwpx|Hangul; pages|application/x-iwork-pages-sffpages|Pages"""),
    ("slides", True, f"""pptx|{_OPEN_XML}.presentationml.presentation|PowerPoint;
        pptm|application/vnd.ms-powerpoint.presentation.macroEnabled.12|PowerPoint;
        ppsx|{_OPEN_XML}.presentationml.slideshow|PowerPoint show; ppt|application/vnd.ms-powerpoint|PowerPoint 97;
        pps|application/vnd.ms-powerpoint|PowerPoint 97 show"""),
    ("slides", False, f"""odp|{_OPEN_DOCUMENT}.presentation|OpenDocument slides;
        key|application/x-iwork-keynote-sffkey|Keynote"""),
    ("sheets", True, f"""xlsx|{_OPEN_XML}.spreadsheetml.sheet|Excel;
        xlsm|application/vnd.ms-excel.sheet.macroEnabled.12|Excel;
        xlsb|application/vnd.ms-excel.sheet.binary.macroEnabled.12|Excel; xls|application/vnd.ms-excel|Excel 97;
        ods|{_OPEN_DOCUMENT}.spreadsheet|OpenDocument sheet"""),
    ("sheets", False, "numbers|application/x-iwork-numbers-sffnumbers|Numbers; dbf|application/vnd.dbf|dBASE"),
    ("book", False, "epub|application/epub+zip|EPUB; fb2|application/x-fictionbook+xml|FictionBook"),
    ("notebook", False, "ipynb|application/x-ipynb+json|Jupyter notebook"),
    ("mail", False, "eml|message/rfc822|Mail; msg|application/vnd.ms-outlook|Outlook mail"),
    ("mailbox", False, "mbox|application/mbox|Mailbox"),
    ("pdf", True, "pdf|application/pdf|PDF"),
    ("image", False, """png|image/png|Image; jpg|image/jpeg|Image; jpeg|image/jpeg|Image; gif|image/gif|Image;
        bmp|image/bmp|Image; tif|image/tiff|Image; tiff|image/tiff|Image; webp|image/webp|Image;
        pnm|image/x-portable-anymap|Image; ppm|image/x-portable-pixmap|Image; pgm|image/x-portable-graymap|Image;
        pbm|image/x-portable-bitmap|Image"""),
    ("drawing", False, "svg|image/svg+xml|SVG"),
)  # fmt: skip
_CODE = """py Python; pyi Python; js JavaScript; mjs JavaScript; cjs JavaScript; jsx JavaScript; ts TypeScript;
    tsx TypeScript; c C; h C; cc C++; cpp C++; cxx C++; hpp C++; hh C++; cs C#; java Java; kt Kotlin; kts Kotlin;
    scala Scala; groovy Groovy; go Go; rs Rust; swift Swift; m Objective-C; rb Ruby; php PHP; pl Perl; pm Perl; lua Lua;
    r R; jl Julia; dart Dart; ex Elixir; exs Elixir; erl Erlang; hs Haskell; ml OCaml; fs F#; clj Clojure; lisp Lisp;
    el Lisp; scm Scheme; vb Basic; pas Pascal; f90 Fortran; f Fortran; asm Assembly; s Assembly; sh Shell; bash Shell;
    zsh Shell; fish Shell; ps1 PowerShell; bat Batch; sql SQL; graphql GraphQL; proto Protocol Buffers; css CSS;
    scss CSS; less CSS; vue Vue; svelte Svelte; tf Terraform; cmake CMake; mk Make; gradle Gradle; nix Nix; zig Zig;
    nim Nim; sol Solidity; v Verilog; vhd VHDL; diff Diff; patch Diff"""
_NAMED = {
    "makefile": "mk", "dockerfile": "sh", "cmakelists.txt": "cmake", "readme": "txt", "license": "txt",
    "licence": "txt", "changelog": "txt", "authors": "txt", "notice": "txt", "jenkinsfile": "groovy",
}  # fmt: skip
"""Files that are known by their whole name."""


def _table() -> dict[str, Format]:
    table = {}
    for family, pages, rows in _ROWS:
        for row in rows.split(";"):
            extension, mime_type, title = (cell.strip() for cell in row.split("|"))
            table[extension] = Format(extension, mime_type, family, pages, title)
    for row in _CODE.split(";"):
        extension, title = row.split(maxsplit=1)
        table[extension] = Format(extension, "text/plain", "code", False, title)
    return table


FORMATS: dict[str, Format] = _table()
Kind = Literal["pdf", "text", "office", "sheets", "slides", "mail", "code", "image", "archive"]
KINDS: dict[Kind, tuple[str, tuple[Family, ...]]] = {
    "pdf": ("PDF", ("pdf",)),
    "text": ("Text and web pages", ("text", "markdown", "markup", "subtitles")),
    "office": ("Word and books", ("office", "book")),
    "sheets": ("Spreadsheets", ("sheets", "rows")),
    "slides": ("Slides", ("slides",)),
    "mail": ("Mail", ("mail", "mailbox")),
    "code": ("Code and data", ("code", "data", "notebook")),
    "image": ("Images", ("image", "drawing")),
    "archive": ("Zip archives", ()),
}
"""What people call the families, to choose among documents."""


def extensions_of(kind: Kind) -> list[str]:
    """The extensions of a kind of files; a zip is no format, its files are."""
    if kind == "archive":
        return ["zip"]
    families = KINDS[kind][1]
    return [one.extension for one in FORMATS.values() if one.family in families]


def extension_of(name: str) -> str:
    """The last extension of a file's name in lower case, empty where it has none (or is all extension: `.env`)."""
    stem, dot, extension = name.replace("\\", "/").rpartition("/")[2].rpartition(".")
    return extension.lower() if dot and stem else ""


def format_of(name: str) -> Format | None:
    """What a file's name says it is; None where that says nothing or nothing that is read here."""
    whole = name.replace("\\", "/").rpartition("/")[2].lower()
    return FORMATS.get(_NAMED.get(whole) or extension_of(name))


def refusal(name: str) -> str:
    """The sentence for a file that is not read here."""
    extension = extension_of(name)
    what = f"files of the kind .{extension}" if extension else "files without an extension that are no text"
    return f"{name}: {what} cannot be read. Convert it to PDF, Word or text; docs/formats.md lists what can be read."


def markdown_table() -> str:
    """The table of docs/formats.md: a line for each media type and name."""
    grouped: dict[tuple[Family, str], list[Format]] = {}
    for one in FORMATS.values():
        grouped.setdefault((one.family, one.title), []).append(one)
    lines = ["| family | format | extensions | pages cited |", "|---|---|---|---|"]
    for (family, title), members in grouped.items():
        extensions = " ".join(f"`.{one.extension}`" for one in members)
        pages = "yes" if any(one.pages for one in members) else ""
        lines.append(f"| {family} | {title} | {extensions} | {pages} |")
    return "\n".join(lines)
