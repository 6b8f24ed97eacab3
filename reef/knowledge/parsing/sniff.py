"""What a file really is, by its first bytes and what lies in its container. Trusts no name, reads no content."""

from __future__ import annotations

import re
import zipfile
from typing import BinaryIO

from reef.knowledge.parsing.decode import low_bytes

HEAD_BYTES = 8192
TEXT = "some text"
"""Said of bytes that look like text of some kind; which kind only the name can tell."""
_MAGIC: tuple[tuple[bytes, str], ...] = (
    (b"{\\rtf", "rtf"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpg"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"II*\0", "tiff"),
    (b"MM\0*", "tiff"),
    (b"\xffWPC", "wpd"),
    (b"\x1f\x8b", "gzip archive"),
    (b"7z\xbc\xaf\x27\x1c", "7z archive"),
    (b"Rar!\x1a\x07", "RAR archive"),
    (b"\xfd7zXZ\0", "xz archive"),
    (b"BZh", "bzip2 archive"),
    (b"\x28\xb5\x2f\xfd", "zstd archive"),
    (b"\x7fELF", "program"),
    (b"MZ\x90", "program"),
    (b"\xcf\xfa\xed\xfe", "program"),
    (b"\xca\xfe\xba\xbe", "program"),
    (b"SQLite format 3\0", "database"),
    (b"ID3", "sound file"),
    (b"OggS", "sound file"),
    (b"fLaC", "sound file"),
)
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"
_OLE_STREAMS = (
    ("EncryptedPackage", "encrypted office"),
    ("WordDocument", "doc"),
    ("PowerPoint Document", "ppt"),
    ("Workbook", "xls"),
    ("Book", "xls"),
    ("__substg1.0_", "msg"),
    ("HwpSummaryInformation", "hwp"),
)
_MIMETYPES = {
    "application/vnd.oasis.opendocument.text": "odt",
    "application/vnd.oasis.opendocument.spreadsheet": "ods",
    "application/vnd.oasis.opendocument.presentation": "odp",
    "application/epub+zip": "epub",
    "application/hwp+zip": "hwpx",
}
_HTML = re.compile(rb"\s*(?:<!--.*?-->\s*)*<(?:!doctype\s+html|html|head|body)\b", re.IGNORECASE | re.DOTALL)
_BMP_HEADERS = (12, 40, 52, 56, 64, 108, 124)


def sniff(file: BinaryIO) -> str:
    """An extension of reef.knowledge.formats, TEXT, `zip`, or words for something that is not read here.

    Empty where nothing can be told.
    """
    file.seek(0)
    head = file.read(HEAD_BYTES)
    if head.startswith((b"PK\x03\x04", b"PK\x05\x06")):
        return _in_zip(file)
    if head.startswith(_OLE):
        return _in_ole(file)
    if b"%PDF-" in head[:1024]:
        return "pdf"
    return next((kind for magic, kind in _MAGIC if head.startswith(magic)), "") or _by_structure(head)


def _by_structure(head: bytes) -> str:
    if head[:4] == b"RIFF":
        return "webp" if head[8:12] == b"WEBP" else "sound file"
    if head[4:8] == b"ftyp":
        return "film or HEIC picture"
    if head[:2] == b"BM" and int.from_bytes(head[14:18], "little") in _BMP_HEADERS:
        return "bmp"
    if re.match(rb"P[1-6]\s", head) and head[:2] in {b"P4", b"P5", b"P6"}:
        return {b"P4": "pbm", b"P5": "pgm", b"P6": "ppm"}[head[:2]]
    if _HTML.match(head):
        return "html"
    return TEXT if looks_like_text(head) else ""


def looks_like_text(head: bytes) -> bool:
    """Whether bytes may be text in some encoding: few control characters, UTF-16's zeros excepted."""
    if not head.strip(b"\0"):
        return False
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return True
    # UTF-16 has low bytes in every second place, text with a few stray ones still is text
    odd, even = low_bytes(head[1::2]), low_bytes(head[0::2])
    low = min(odd, even) if max(odd, even) > len(head) * 0.15 else odd + even
    others = sum(13 < byte < 32 for byte in head) - head.count(27)  # 27: terminal colours in logs
    return low <= len(head) * 0.05 and others <= len(head) * (0.5 if low < max(odd, even) else 0.02)


def _in_zip(file: BinaryIO) -> str:
    try:
        with zipfile.ZipFile(file) as archive:
            names = set(archive.namelist()[:20_000])
            mimetype = archive.open("mimetype").read(200) if "mimetype" in names else b""
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError, EOFError):
        return "broken zip"
    known = _MIMETYPES.get(mimetype.decode("ascii", "replace").strip().removesuffix("-template"))
    if known:
        return known
    for part, kind in (("word/document.xml", "docx"), ("ppt/presentation.xml", "pptx"), ("xl/workbook.bin", "xlsb")):
        if part in names:
            return kind
    if "xl/workbook.xml" in names:
        return "xlsx"
    if any(name.startswith("Index/") for name in names) or "index.apxl" in names or "Index.zip" in names:
        return "iwork"
    return "zip"


def _in_ole(file: BinaryIO) -> str:
    file.seek(0)
    # directory entries spell stream names in UTF-16; where in the file they lie is anybody's guess
    data = file.read(64 * 1024 * 1024)
    return next((kind for name, kind in _OLE_STREAMS if name.encode("utf-16-le") in data), "ole")
