"""Log files of processes: bounded, whole lines, private, and a disk that refuses does not end the supervisor."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from workers import process_log
from workers.process_log import BLOT, LINE_BYTES_MAX, ProcessLog, tail


def test_full_files_are_rotated_and_the_oldest_goes(tmp_path: Path) -> None:
    """However much a process prints, the files stay within their limit and the newest lines are kept."""
    log = ProcessLog(tmp_path / "x.log", file_bytes_max=1000, files_kept=3)
    for number in range(2000):
        log.feed(f"line {number}\n".encode())
    log.close()
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["x.log", "x.log.1", "x.log.2"]
    assert all(path.stat().st_size <= 1000 for path in tmp_path.iterdir())
    assert tail(tmp_path / "x.log", 1) == ["line 1999"]
    kept = b"".join((tmp_path / name).read_bytes() for name in reversed(files)).split()[1::2]
    assert kept == [str(number).encode() for number in range(int(kept[0]), 2000)]


def test_an_existing_file_is_continued_within_its_limit(tmp_path: Path) -> None:
    """A restart of `up` does not start the count anew."""
    (tmp_path / "x.log").write_bytes(b"old " * 200 + b"\n")
    log = ProcessLog(tmp_path / "x.log", file_bytes_max=810)
    log.feed(b"a new line that does not fit\n")
    log.close()
    assert (tmp_path / "x.log").read_bytes() == b"a new line that does not fit\n"
    assert (tmp_path / "x.log.1").read_bytes().startswith(b"old ")


def test_a_line_without_end_is_written_in_pieces(tmp_path: Path) -> None:
    """A process that never prints a newline fills no memory."""
    log = ProcessLog(tmp_path / "x.log")
    for _ in range(10):
        log.feed(b"x" * (LINE_BYTES_MAX // 4))
    assert len(log._rest) <= LINE_BYTES_MAX
    log.close()
    assert (tmp_path / "x.log").read_bytes().count(b"x") == 10 * (LINE_BYTES_MAX // 4)


def test_only_the_owner_reads_logs(tmp_path: Path) -> None:
    """Logs may hold what a person said to a persona in a traceback."""
    ProcessLog(tmp_path / "x.log").close()
    assert stat.S_IMODE((tmp_path / "x.log").stat().st_mode) == 0o600


def test_a_full_disk_loses_lines_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The writer goes on and writes again when there is space."""

    def refuse(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    log = ProcessLog(tmp_path / "x.log")
    monkeypatch.setattr(process_log.os, "write", refuse)
    log.feed(b"lost\n")
    monkeypatch.undo()
    log.feed(b"kept\n")
    log.close()
    assert (tmp_path / "x.log").read_bytes() == b"kept\n"


@given(pieces=st.lists(st.sampled_from([b"se", b"cret", b"secret", b"\n", b"x"]), max_size=30))
def test_a_secret_is_blotted_out_however_the_output_is_cut(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes]
) -> None:
    """What is written is the text with the secret replaced, line by line."""
    path = tmp_path_factory.mktemp("log") / "x.log"
    log = ProcessLog(path, ["secret"])
    for piece in pieces:
        log.feed(piece)
    log.close()
    text = b"".join(pieces).replace(b"secret", BLOT)
    assert path.read_bytes() == text + (b"" if text.endswith(b"\n") or not text else b"\n")
