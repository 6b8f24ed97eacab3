"""What model files say about themselves, in every format."""

from __future__ import annotations

from pathlib import Path

import pytest
from model_files import gguf_bytes
from tiny_networks import dense_onnx, dense_tflite

from reef.models import ModelError
from reef.models.adapters import parts_of, split_name
from reef.models.formats import begins_right, read_facts
from reef.models.tflite import read_tflite

CORAL = Path(__file__).parents[4] / "shared" / "data" / "coral"


def test_facts_of_each_format(tmp_path: Path) -> None:
    """Format, quantisation, licence and base come from the file itself."""
    (tmp_path / "a.tflite").write_bytes(dense_tflite())
    (tmp_path / "b.onnx").write_bytes(dense_onnx())
    (tmp_path / "c.gguf").write_bytes(gguf_bytes({"general.file_type": 15, "general.license": "mit"}))
    adapter = {"general.type": "adapter", "general.base_model.0.name": "Base 1B"}
    (tmp_path / "d.gguf").write_bytes(gguf_bytes(adapter))
    facts = [read_facts(path) for path in sorted(tmp_path.iterdir())]
    assert [one.format for one in facts] == ["tflite", "onnx", "gguf", "lora"]
    assert [one.quantisation for one in facts] == ["float32", "", "Q4_K_M", "F32"]
    assert (facts[2].licence, facts[3].base) == ("mit", "Base 1B")


def test_a_cut_tflite_file_is_noticed(tmp_path: Path) -> None:
    """Whatever the length it was cut to, it is refused with a sentence or it still has every weight."""
    whole, path = dense_tflite(), tmp_path / "cut.tflite"
    path.write_bytes(whole)
    weights = read_tflite(path).weight_types
    said = []
    for length in range(0, len(whole), 37):
        path.write_bytes(whole[:length])
        said.append(verdict(path))
    assert set(said) <= {"damaged or cut short", "not a model", str(weights)}
    assert said.count(str(weights)) < len(said) * 0.3


def test_a_scrambled_tflite_file_is_an_error_of_ours(tmp_path: Path) -> None:
    """Offsets that lead anywhere end in a sentence, never in another exception or without end."""
    whole, path = dense_tflite(), tmp_path / "bad.tflite"
    said = []
    for place in range(8, 400, 3):
        damaged = bytearray(whole)
        damaged[place : place + 2] = b"\xff\xfe"
        path.write_bytes(damaged)
        said.append(verdict(path))
    assert "damaged or cut short" in said


def verdict(path: Path) -> str:
    """What is said about a file: its weights, or what is wrong."""
    try:
        return str(read_tflite(path).weight_types)
    except ModelError as error:
        return next((text for text in ("damaged or cut short", "not a model") if text in str(error)), str(error))


@pytest.mark.skipif(not CORAL.is_dir(), reason=f"the Coral models are not here ({CORAL})")
@pytest.mark.parametrize(
    ("name", "quantisation"),
    [
        ("mobilenet_v1_0.25_128_quant.tflite", "uint8"),
        ("keras_lstm_mnist_ptq.tflite", "int8"),
        ("mobilenet_v1_0.25_128_quant_edgetpu.tflite", "int8, Edge TPU"),
    ],
)
def test_real_coral_models_are_read(name: str, quantisation: str) -> None:
    """Files that others made: integers throughout, and what the Edge TPU compiler leaves."""
    assert read_facts(CORAL / name).quantisation == quantisation


def test_first_bytes_tell() -> None:
    """A beginning is right as long as it may become the right one."""
    for data, suffix in ((gguf_bytes(), ".gguf"), (dense_tflite(), ".tflite"), (dense_onnx(), ".onnx")):
        assert all(begins_right(data[:length], suffix) for length in range(1, 9))
        assert not begins_right(b"<!DOCTYP", suffix)


def test_names_with_adapters() -> None:
    """Model, adapters, scales; what cannot be meant is refused with what is expected."""
    assert split_name("a") == ("a", [])
    assert split_name("a+b@0.5+c") == ("a", [("b", 0.5), ("c", 1.0)])
    assert split_name("a+b@0") == ("a", [("b", 0.0)])
    assert parts_of("a+b@0.5+c") == ["a", "b", "c"]
    for wrong in ("a+", "+b", "a+b@", "a+b@x", "a+b@11", "a+b+b", "a" + "".join(f"+x{n}" for n in range(9))):
        with pytest.raises(ModelError, match=r"expected MODEL\+ADAPTER|at most 8 adapters"):
            split_name(wrong)
        assert parts_of(wrong) == [wrong]
