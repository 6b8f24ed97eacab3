"""Pictures read as text by tesseract, where it is installed. It runs inside the limits of the child that calls it."""

from __future__ import annotations

import shutil
import subprocess

from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.source import Source
from reef.ports import ParseFailed
from reef.settings import inherited_environment

ADVICE = "install tesseract (Debian: apt-get install tesseract-ocr tesseract-ocr-eng) and send the file again."
PICTURE_TIMEOUT_S = 60.0


def installed() -> bool:
    """Whether there is a tesseract on PATH."""
    return shutil.which("tesseract") is not None


def read_image(source: Source) -> ParsedDocument:
    """The words in a picture; ParseFailed `no_text` where there is no OCR."""
    if not installed():
        raise ParseFailed("no_text", f"A picture is read by OCR, which is not installed: {ADVICE}")
    draft = source.draft()
    draft.add(recognise(source.data, source.ocr_languages))
    return draft.finish(mime_type=source.format.mime_type)


def recognise(picture: bytes, languages: str) -> str:
    """Text of a picture in any format that tesseract reads."""
    command = ["tesseract", "stdin", "stdout", "-l", languages, "--psm", "3"]
    # one picture, one core: the others have files of their own to read
    environment = {**inherited_environment(), "OMP_THREAD_LIMIT": "1"}
    try:
        done = subprocess.run(
            command, input=picture, capture_output=True, timeout=PICTURE_TIMEOUT_S, env=environment, check=False
        )
    except subprocess.TimeoutExpired:
        raise ParseFailed("too_slow", f"OCR of one picture took longer than {PICTURE_TIMEOUT_S:.0f} s.") from None
    if done.returncode:
        complaint = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
        if any("tessdata" in line or "language" in line.lower() for line in complaint):
            raise ParseFailed(
                "no_text",
                f"tesseract lacks the language data {languages!r} (Debian: apt-get install tesseract-ocr-eng).",
            )
        raise ParseFailed("corrupt", f"The picture cannot be read: {complaint[-1][:200]}")
    return done.stdout.decode("utf-8", "replace")


def graymap(data: bytes, width: int, height: int, stride: int) -> bytes:
    """Grey pixels as a PGM file, which needs no picture library."""
    rows = data if stride == width else b"".join(data[at * stride : at * stride + width] for at in range(height))
    return b"P5\n%d %d\n255\n" % (width, height) + rows[: width * height]
