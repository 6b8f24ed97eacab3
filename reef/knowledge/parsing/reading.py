"""From a path to a document: refuse what must not be read, find out what it is, call the family's reader.

Runs in a child process. Chooses and checks; every format's own knowledge is in the module of its family.
"""

from __future__ import annotations

import io
import os
import stat
from collections.abc import Callable
from pathlib import Path

import msgspec

from reef.knowledge.formats import FORMATS, Family, extension_of, format_of, refusal
from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing import mail, ocr, office, pdf, plain
from reef.knowledge.parsing.containers import check_zip
from reef.knowledge.parsing.language import language_of
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.sniff import TEXT, sniff
from reef.knowledge.parsing.source import Source
from reef.ports import ParseFailed

_TEXTUAL: frozenset[Family] = frozenset(
    {"text", "markdown", "code", "data", "rows", "subtitles", "markup", "notebook", "mail", "mailbox", "drawing"}
)
_ZIPPED = frozenset({"docx", "docm", "dotx", "odt", "hwpx", "pages", "pptx", "pptm", "ppsx", "odp", "key", "xlsx",
                     "xlsm", "xlsb", "ods", "numbers", "epub"})  # fmt: skip
# what the name may say although the bytes look like their sibling
_SIBLINGS = (
    {"docx", "docm", "dotx"}, {"pptx", "pptm", "ppsx"}, {"xlsx", "xlsm"}, {"doc", "dot"}, {"ppt", "pps"},
    {"jpg", "jpeg"}, {"tif", "tiff"}, {"html", "htm", "xhtml"}, {"pages", "key", "numbers", "iwork"},
    {"pnm", "ppm", "pgm", "pbm"},
)  # fmt: skip


def read(path: Path, name: str, limits: ParseLimits, ocr_languages: str = "eng") -> ParsedDocument:
    """The file as text. Raises ParseFailed."""
    data = _bytes(path, name, limits)
    source = Source(
        name=name,
        data=data,
        extension="txt",
        limits=limits,
        ocr_languages=ocr_languages,
        budget=[0] * limits.attachments_max,
    )
    document = _read(source)
    if not document.text.strip():
        raise ParseFailed("no_text", _why_no_text(document))
    return msgspec.structs.replace(document, language=language_of(document.text))


def _bytes(path: Path, name: str, limits: ParseLimits) -> bytes:
    try:
        # a link or a pipe in an upload is somebody's mistake or somebody's trick
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ParseFailed("lost", f"{name}: the file is gone. Send it again.") from None
    except OSError as error:
        raise ParseFailed("unsupported", f"{name}: no regular file ({error.strerror}).") from None
    facts = os.fstat(handle)
    if not stat.S_ISREG(facts.st_mode):
        os.close(handle)
        raise ParseFailed("unsupported", f"{name}: no regular file (a directory, pipe or device).")
    with open(handle, "rb") as file:
        if facts.st_size == 0:
            raise ParseFailed("empty", f"{name}: the file is empty.")
        if facts.st_size > limits.file_bytes_max:
            raise ParseFailed(
                "too_large",
                f"{name}: the file has {facts.st_size / 1e6:,.0f} MB; at most {limits.file_bytes_max / 1e6:,.0f} MB "
                "are read. Split it.",
            )
        return file.read(limits.file_bytes_max)


def _read(source: Source) -> ParsedDocument:
    extension, warning = identify(source.name, source.data)
    source = msgspec.structs.replace(source, extension=extension)
    if extension in _ZIPPED:
        check_zip(io.BytesIO(source.data), source.limits)
    document = _READERS[source.format.family](source)
    if source.format.family == "markup" and not document.text:
        document = plain.read_text(source)
        warning = warning or f"Nothing was understood as .{extension}; read as plain text."
    if warning:
        document = msgspec.structs.replace(document, warnings=(warning, *document.warnings))
    return document


def _read_part(mail_source: Source, name: str, data: bytes) -> ParsedDocument:
    """Something attached to a mail, under the same limits."""
    if not data:
        raise ParseFailed("empty", "empty")
    return _read(msgspec.structs.replace(mail_source, name=name, data=data, depth=mail_source.depth + 1))


def identify(name: str, data: bytes) -> tuple[str, str]:
    """The extension a file should have, and a warning where its name says otherwise. Raises ParseFailed."""
    said = format_of(name)
    found = sniff(io.BytesIO(data))
    if said is None and found not in FORMATS and not (found == TEXT and not extension_of(name)):
        raise ParseFailed("unsupported", refusal(name))
    if found == "encrypted office":
        raise ParseFailed("encrypted", "The file is protected by a password. Remove the password and send it again.")
    if found == "broken zip":
        raise ParseFailed("corrupt", f"{name}: the file is cut off or damaged. Save it again or send another copy.")
    if found in FORMATS:
        return _settle(said.extension if said else "", found)
    if found == TEXT:
        return _settle_text(name, said.extension if said else "")
    return _settle_unknown(name, said.extension if said else "", found)


def _settle(said: str, found: str) -> tuple[str, str]:
    alike = said == found or any({said, found} <= family for family in _SIBLINGS)
    if alike or (found == "html" and said and FORMATS[said].family in _TEXTUAL):
        return said, ""
    if not said:
        return found, f"Read as .{found}, which is what it is."
    return found, f"The name says .{said}, but the file is .{found} and was read as that."


def _settle_text(name: str, said: str) -> tuple[str, str]:
    if not said:
        return "txt", ""
    if FORMATS[said].family in _TEXTUAL or said in {"fb2", "pnm", "ppm", "pgm", "pbm"}:
        return said, ""
    if said == "pdf" or said in _ZIPPED or FORMATS[said].family == "image":
        raise ParseFailed("corrupt", f"{name}: the name says .{said}, but the file is plain text or damaged.")
    return "txt", f"The name says .{said}, but the file is plain text and was read as that."


def _settle_unknown(name: str, said: str, found: str) -> tuple[str, str]:
    """Nothing was recognised, or something that is not read here."""
    if found == "iwork" and said in {"pages", "key", "numbers"}:
        return said, ""
    if found == "ole" and said in {"doc", "dot", "ppt", "pps", "xls", "msg", "hwp"}:
        return said, ""
    if found == "zip" and said in {"pages", "key", "numbers"}:
        return said, ""
    if found:
        kind = "zip archive" if found in {"zip", "iwork"} else found
        advice = " Upload the archive itself as .zip or .tar.gz." if "archive" in kind else ""
        raise ParseFailed(
            "unsupported", f"{name}: the file is really a {kind}, which is not read as a document.{advice}"
        )
    if said == "dbf":
        return said, ""
    raise ParseFailed(
        "corrupt" if said and FORMATS[said].family not in _TEXTUAL else "unsupported",
        f"{name}: the file's bytes are neither {f'.{said} ' if said else ''}nor text; it is damaged or misnamed.",
    )


def _why_no_text(document: ParsedDocument) -> str:
    if document.warnings:
        return f"No text was found in the file: {document.warnings[-1]}"
    return "No text was found in the file."


def warm() -> None:
    """Load the libraries, so that the first file does not wait for them."""
    import pypdfium2  # noqa: F401

    language_of("The water is warm and the fish are many.")


_READERS: dict[Family, Callable[[Source], ParsedDocument]] = {
    "text": plain.read_text,
    "markdown": plain.read_markdown,
    "code": plain.read_code,
    "data": plain.read_code,
    "rows": plain.read_rows,
    "subtitles": plain.read_subtitles,
    "markup": office.read_office,
    "office": office.read_office,
    "slides": office.read_office,
    "sheets": office.read_office,
    "book": office.read_office,
    "notebook": office.read_office,
    "drawing": office.read_office,
    "mail": lambda source: (
        office.read_office(source) if source.extension == "msg" else mail.read_mail(source, _read_part)
    ),
    "mailbox": lambda source: mail.read_mailbox(source, _read_part),
    "pdf": pdf.read_pdf,
    "image": ocr.read_image,
}
