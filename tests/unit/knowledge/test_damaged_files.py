"""Real documents with damage in random places: each is read or refused, and the pool goes on."""

from __future__ import annotations

import io
import random
import threading
import zipfile
from pathlib import Path

from awkward_documents import HTML, MESSAGES, NOTEBOOK, ODS, ODT, RTF, TWO_PAGES, book, mail, pdf, sheets, slides, word
from awkward_files import ENGLISH, zip_of

from reef.knowledge.model import FAILURE_CODES
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.pool import ParserPool
from reef.ports import ParseFailed

FILES = 400
HOSTILE = (b"\xff\xff\xff\x7f", b"\0\0\0\0", b"<<<<<<<<", b"]]>", b"&#x0;", b"-1 0 R")


def damaged(data: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, lost, doubled or replaced by what parsers stumble over."""
    for _ in range(dice.randint(1, 10)):
        at = dice.randrange(len(data) + 1)
        length = dice.randint(1, 60)
        middle = dice.choice([b"", data[at : at + length] * 4, dice.choice(HOSTILE), dice.randbytes(length)])
        data = data[:at] + middle + data[at + length :]
    return data


def damaged_inside(data: bytes, dice: random.Random) -> bytes:
    """Damage below the zip's checksums, where parsers meet it."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members: dict[str, bytes | str] = {name: archive.read(name) for name in archive.namelist()}
        name = dice.choice(archive.namelist())
        members[name] = damaged(archive.read(name), dice)
    return zip_of(members)


def test_damage_is_never_more_than_one_files_failure(tmp_path: Path) -> None:
    """Four hundred damaged files, the same in each run: an answer for each, and a sound file is read afterwards."""
    dice = random.Random(20)
    zipped = {"docx": word(), "pptx": slides(), "xlsx": sheets(), "odt": ODT, "ods": ODS, "epub": book()}
    plain = {
        "pdf": pdf(TWO_PAGES), "html": HTML.encode(), "rtf": RTF.encode(), "ipynb": NOTEBOOK.encode(),
        "eml": mail([("report.pdf", pdf(TWO_PAGES)), ("word.docx", word())]), "mbox": MESSAGES,
    }  # fmt: skip
    pool = ParserPool(2, ParseLimits(time_s=5.0), tmp_path / "scratch")
    path = tmp_path / "file"
    read, codes = 0, []
    try:
        for number in range(FILES):
            kind = dice.choice([*zipped, *plain])
            data = damaged_inside(zipped[kind], dice) if kind in zipped else damaged(plain[kind], dice)
            path.write_bytes(data)
            try:
                pool.parse(path, f"{number}.{kind}", threading.Event())
                read += 1
            except ParseFailed as error:
                codes.append(error.code)
        path.write_text(ENGLISH)
        assert "coral" in pool.parse(path, "sound.txt", threading.Event()).text
    finally:
        pool.close()
    assert read + len(codes) == FILES
    assert min(read, len(codes)) > FILES // 10
    assert set(codes) <= set(FAILURE_CODES) - {"internal", "lost"}
