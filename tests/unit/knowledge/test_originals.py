"""Uploaded bytes: received, kept under their hash, bounded by the disk."""

from __future__ import annotations

import errno
import hashlib
import shutil
from pathlib import Path

import pytest

from reef.knowledge import originals as module
from reef.knowledge.names import BadName, clean_name
from reef.knowledge.originals import Busy, DiskFull, Originals, TooLarge
from reef.knowledge.uploads import Limits, too_long


def receive(originals: Originals, name: str, *pieces: bytes, bytes_max: int = 1000) -> None:
    with originals.receive(name, bytes_max=bytes_max) as incoming:
        for piece in pieces:
            incoming.write(piece)


def test_the_same_bytes_are_kept_once(tmp_path: Path) -> None:
    """Whatever parts they came in and whatever they were called."""
    originals = Originals(tmp_path)
    receive(originals, "a", b"some ", b"bytes")
    receive(originals, "b", b"some bytes")
    first, second = originals.keep("a"), originals.keep("b")
    assert first == second == (hashlib.sha256(b"some bytes").hexdigest(), 10)
    assert originals.path(first.sha256).read_bytes() == b"some bytes"
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [first.sha256]


def test_receiving_goes_on_where_it_ended(tmp_path: Path) -> None:
    """Another process appends; the offset is what is on the disk."""
    receive(Originals(tmp_path), "a", b"some ")
    again = Originals(tmp_path)
    assert again.received_bytes("a") == 5
    with again.receive("a", bytes_max=10) as incoming:
        assert incoming.offset == 5
        incoming.write(b"bytes")
        with pytest.raises(TooLarge):
            incoming.write(b"!")
    assert again.received_bytes("a") == 10


def test_a_file_has_one_writer(tmp_path: Path) -> None:
    """A second request for the same file is refused while the first one writes."""
    originals = Originals(tmp_path)
    with originals.receive("a", bytes_max=10), pytest.raises(Busy):
        receive(originals, "a", b"x")
    receive(originals, "a", b"x")


def test_the_reserve_stays_free(tmp_path: Path) -> None:
    """With less room than asked for the sentence names both numbers."""
    free = shutil.disk_usage(tmp_path).free
    with pytest.raises(DiskFull, match="kept free"):
        Originals(tmp_path, reserve_bytes=2 * free).check_room(1)
    Originals(tmp_path).check_room(1)


def test_a_disk_that_fills_up_in_the_middle_is_told_as_such(tmp_path: Path) -> None:
    """ENOSPC of a write is no internal error."""
    originals = Originals(tmp_path)
    with originals.receive("a", bytes_max=10) as incoming:

        class Full:
            def write(self, _data: bytes) -> int:
                raise OSError(errno.ENOSPC, "No space left on device")

        incoming._file = Full()  # type: ignore[assignment]
        with pytest.raises(DiskFull, match="disk is full"):
            incoming.write(b"x")


def test_half_received_files_are_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is kept for ever."""
    from reef.records.database import Database, migrate

    url = f"sqlite:///{tmp_path / 'reef.db'}"
    migrate(url)
    originals, database = Originals(tmp_path), Database(url)
    receive(originals, "a", b"half")
    assert originals.collect(database) == 0
    monkeypatch.setattr(module, "INCOMING_AGE_S", -1.0)
    assert originals.collect(database) == 1
    assert originals.received_bytes("a") == 0
    database.dispose()


def test_what_is_no_hash_is_no_path(tmp_path: Path) -> None:
    """A row that was tampered with leads nowhere."""
    with pytest.raises(ValueError, match="no SHA-256"):
        Originals(tmp_path).path("../../etc/passwd")


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("a.txt", "a.txt"),
        ("/etc/passwd", "etc/passwd"),
        ("C:\\papers\\a.txt", "C:/papers/a.txt"),
        ("./a//b/./c.txt", "a/b/c.txt"),
        ("ünï/文.txt", "ünï/文.txt"),
    ],
)
def test_names_are_relative_paths(given: str, name: str) -> None:
    """Whatever system they come from."""
    assert clean_name(given) == name


@pytest.mark.parametrize("given", ["", "/", "..", "a/../b", "a\\..\\b", "a\nb", "a\x00b", "x" * 501, "a/" * 70 + "b"])
def test_names_that_lead_elsewhere_are_refused(given: str) -> None:
    """Out of the folder, into a terminal, beyond the column."""
    with pytest.raises(BadName):
        clean_name(given)


def test_an_archive_may_be_longer_than_what_is_read() -> None:
    """Both limits are told, by the name; the smaller one holds where a reef takes less."""
    limits = Limits(file_bytes_max=2_000_000_000, files_max=1, upload_bytes_max=1, reserve_bytes=0)
    assert [limits.bytes_max(name) for name in ("a.pdf", "zip")] == [100_000_000] * 2
    assert [limits.bytes_max(name) for name in ("a.zip", "a.TAR.gz", "a.tgz")] == [2_000_000_000] * 3
    small = Limits(file_bytes_max=1_000_000, files_max=1, upload_bytes_max=1, reserve_bytes=0)
    assert (small.bytes_max("a.pdf"), small.bytes_max("a.zip")) == (1_000_000, 1_000_000)
    assert too_long("a.zip", 2_000_000_000) == "An archive may have 2,000 MB."
    assert too_long("a.txt", 1_500_000) == "A document may have 1.5 MB."
