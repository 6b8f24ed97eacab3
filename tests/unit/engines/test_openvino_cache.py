"""When what was prepared for OpenVINO may be used, and what happens when it may not."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from model_files import gguf_bytes

from reef.models import ModelFile, ModelStore
from workers.engines import openvino_cache
from workers.engines.openvino_cache import FORMAT, Manifest, UnreadableModelError, prepared


@pytest.fixture
def model(tmp_path: Path) -> ModelFile:
    path = tmp_path / "own.gguf"
    path.write_bytes(gguf_bytes())
    return ModelStore(tmp_path / "data").resolve(str(path))


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Stands in for the conversion: writes a directory as it would, and notes that it did."""
    calls: list[Path] = []

    def convert(model: ModelFile, threads: int, folder: Path, progress: object) -> None:
        calls.append(folder)
        (folder / "openvino_model.bin").write_bytes(b"w" * 100)
        (folder / "blob").mkdir()
        (folder / "blob" / "1.blob").write_bytes(b"b" * 50)
        manifest = Manifest(
            format=FORMAT,
            folder=str(folder),
            files={"openvino_model.bin": 100, "blob/1.blob": 50},
            blob=True,
            end_ids=[2],
            context_tokens=2048,
            kv_bytes_per_token=100,
        )
        (folder / "manifest.json").write_bytes(msgspec.json.encode(manifest))

    monkeypatch.setattr(openvino_cache, "_convert", convert)
    return calls


def prepare(model: ModelFile, threads: int = 2) -> Path:
    """Prepare it, quietly."""
    folder, manifest = prepared(model, threads, lambda share, note: None)
    assert manifest.end_ids == [2]
    return folder


def test_prepared_once(model: ModelFile, made: list[Path]) -> None:
    """The second start finds what the first one made; another number of threads is another thing."""
    assert prepare(model) == prepare(model)
    assert len(made) == 1
    assert prepare(model, threads=1) != prepare(model)
    assert len(made) == 2


@pytest.mark.parametrize("damage", ["cut", "gone", "no manifest", "half a manifest", "older format", "moved"])
def test_damage_means_making_it_again(model: ModelFile, made: list[Path], damage: str) -> None:
    """A file cut short or gone, a conversion that was killed, an older layout, a moved directory: never used."""
    folder = prepare(model)
    manifest = folder / "manifest.json"
    text = manifest.read_text()
    if damage == "cut":
        (folder / "openvino_model.bin").write_bytes(b"w" * 99)
    elif damage == "gone":
        (folder / "blob" / "1.blob").unlink()
    elif damage == "no manifest":
        manifest.unlink()
    elif damage == "half a manifest":
        manifest.write_text(text[: len(text) // 2])
    elif damage == "older format":
        manifest.write_text(text.replace(f'"format":{FORMAT}', '"format":0'))
    else:
        manifest.write_text(text.replace(str(folder), "/elsewhere"))
    assert prepare(model) == folder
    assert len(made) == 2
    assert prepare(model) == folder
    assert len(made) == 2


def test_leftovers_of_other_versions_go(model: ModelFile, made: list[Path]) -> None:
    """What was prepared by another OpenVINO is removed; other models are left alone."""
    old = model.cache_dir / f"{model.sha256[:20]}-1999.0-{FORMAT}-abcdefgh"
    other = model.cache_dir / f"{'0' * 20}-1999.0-{FORMAT}-abcdefgh"
    for folder in (old, other):
        folder.mkdir(parents=True)
    prepare(model)
    assert not old.exists()
    assert other.exists()


def test_file_that_openvino_cannot_read(model: ModelFile) -> None:
    """The real conversion fails in its own process; the error says what to do, and nothing is left to be used."""
    with pytest.raises(UnreadableModelError, match="engine: llama"):
        prepared(model, 1, lambda share, note: None)
    assert not list(model.cache_dir.glob("*/manifest.json"))
