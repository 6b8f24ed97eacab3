"""Small TFLite and ONNX networks in int8, by the real quantizers, run in the real runtimes."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_networks import dense_onnx, dense_tflite, examples

from reef.models.tflite import read_tflite
from workers.quantise.dispatch import quantise
from workers.quantise.report import QuantiseError

MAKERS: dict[str, Callable[[int], bytes]] = {".tflite": dense_tflite, ".onnx": dense_onnx}


def quiet(share: float, note: str) -> None:
    """No progress."""


@pytest.fixture(params=sorted(MAKERS))
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """A network with float32 weights, in each format."""
    path = tmp_path / f"dense{request.param}"
    path.write_bytes(MAKERS[request.param](1))
    return path


@pytest.mark.parametrize("to", ["int8-dynamic", "int8"])
def test_it_is_smaller_and_says_nearly_the_same(source: Path, tmp_path: Path, to: str) -> None:
    """Weights of a byte, outputs whose cosine with the source's is above 0.97, and figures for both."""
    target = tmp_path / f"small{source.suffix}"
    report = quantise(source, target, to, quiet, calibration=examples(tmp_path / "examples.npz", 128))
    assert report.after.quality is not None
    assert 0.97 < report.after.quality < 1.0, "something was lost, and not much"
    assert report.before.quality == 1.0
    assert report.after.size_bytes == target.stat().st_size
    assert report.before.speed > 0
    assert report.after.speed > 0
    assert report.notes == ()
    if source.suffix == ".tflite":
        said = read_tflite(target).quantisation
        assert said == ("int8" if to == "int8" else "dynamic int8")
        assert report.after.size_bytes < report.before.size_bytes


def test_without_examples_it_says_what_it_compared_on(source: Path, tmp_path: Path) -> None:
    """Dynamic int8 needs no examples; that the agreement is about noise is told."""
    report = quantise(source, tmp_path / f"small{source.suffix}", "int8-dynamic", quiet)
    assert "random input" in report.notes[0]


@pytest.mark.parametrize(
    ("to", "calibration", "says"),
    [
        ("int8", None, "--calibration FILE.npz"),
        ("Q4_K_M", None, "int8-dynamic"),
        ("int8", "other", r"inputs are \['x'\]"),
        ("int8", "short", "sample 0 does not fit"),
        ("int8", "text", "no .npz file"),
    ],
)
def test_what_cannot_be_done_is_told_and_leaves_nothing(
    source: Path, tmp_path: Path, to: str, calibration: str | None, says: str
) -> None:
    """Missing or wrong examples, an unknown type: a sentence, and no file."""
    import numpy as np

    given = None
    if calibration:
        given = tmp_path / f"{calibration}.npz"
        if calibration == "text":
            given.write_text("hello")
        elif calibration == "other":
            np.savez(given, y=np.zeros((2, 32), np.float32), z=np.zeros((2, 32), np.float32))
        else:
            np.savez(given, x=np.zeros((2, 31), np.float32))
    before = sorted(tmp_path.iterdir())
    with pytest.raises(QuantiseError, match=says):
        quantise(source, tmp_path / f"small{source.suffix}", to, quiet, calibration=given)
    assert sorted(tmp_path.iterdir()) == before


def test_a_damaged_source_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """A file that is cut short is refused with a sentence."""
    source.write_bytes(source.read_bytes()[:200])
    with pytest.raises(QuantiseError, match=r"damaged or cut short|cannot use"):
        quantise(source, tmp_path / f"small{source.suffix}", "int8-dynamic", quiet)
    assert list(tmp_path.iterdir()) == [source]


def test_a_quantised_source_is_refused(tmp_path: Path) -> None:
    """What is int8 already is not quantised again."""
    source, once = tmp_path / "dense.tflite", tmp_path / "once.tflite"
    source.write_bytes(dense_tflite())
    quantise(source, once, "int8-dynamic", quiet)
    with pytest.raises(QuantiseError, match="dynamic int8 already"):
        quantise(once, tmp_path / "twice.tflite", "int8-dynamic", quiet)


@pytest.mark.parametrize(("suffix", "package"), [(".tflite", "litert_quantizer"), (".onnx", "onnxruntime")])
def test_a_missing_package_is_named_with_its_command(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, package: str
) -> None:
    """Packages that only this command needs are optional; without them it says how to get them."""
    source = tmp_path / f"dense{suffix}"
    source.write_bytes(MAKERS[suffix](1))
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(QuantiseError, match="pip install"):
        quantise(source, tmp_path / f"small{suffix}", "int8-dynamic", quiet)


def test_files_are_not_written_over(tmp_path: Path) -> None:
    """Another format, a file that is there, a folder that is not: each is told before anything is read."""
    source = tmp_path / "dense.tflite"
    source.write_bytes(dense_tflite())
    for target, says in (
        (tmp_path / "small.gguf", "must end in .tflite"),
        (source, "is there already"),
        (tmp_path / "no" / "small.tflite", "no folder"),
    ):
        with pytest.raises(QuantiseError, match=says):
            quantise(source, target, "int8-dynamic", quiet)
    with pytest.raises(QuantiseError, match="There is no file"):
        quantise(tmp_path / "gone.tflite", tmp_path / "small.tflite", "int8-dynamic", quiet)
