"""GGUF files in fewer bits: the engine's kernels, read back by another program's reader."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from model_files import gguf_bytes

from reef.models.formats import read_facts
from reef.models.gguf_layout import read_layout
from workers.quantise.dispatch import quantise
from workers.quantise.gguf import TARGETS, quantise_gguf
from workers.quantise.kernels import NAMES
from workers.quantise.report import QuantiseError

LAYERS = 8
ROW = 256


def quiet(share: float, note: str) -> None:
    """No progress."""


def network(path: Path, row: int = ROW) -> dict[str, np.ndarray]:
    """Some tensors under the names of a llama network, in float32 and float16; gives them."""
    random = np.random.default_rng(3)
    made: dict[str, np.ndarray] = {"token_embd.weight": random.normal(size=(64, row)).astype(np.float16)}
    for layer in range(LAYERS):
        for name in ("attn_q", "attn_v", "ffn_down"):
            made[f"blk.{layer}.{name}.weight"] = random.normal(size=(16, row)).astype(np.float32)
        made[f"blk.{layer}.attn_norm.weight"] = random.normal(size=row).astype(np.float32)
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_string("general.license", "apache-2.0")
    writer.add_file_type(gguf.LlamaFileType.ALL_F32)
    writer.add_array("tokenizer.ggml.tokens", ["a", "ä", "日本"])
    for name, data in made.items():
        writer.add_tensor(name, data)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return made


@pytest.mark.parametrize("to", sorted(TARGETS))
def test_another_reader_finds_the_same_numbers(tmp_path: Path, to: str) -> None:
    """Every target: the `gguf` package reads the file and gives back numbers near the source's, words untouched."""
    made = network(tmp_path / "in.gguf")
    quantise_gguf(tmp_path / "in.gguf", tmp_path / "out.gguf", to, quiet)
    assert read_facts(tmp_path / "out.gguf").quantisation == to
    reader = gguf.GGUFReader(tmp_path / "out.gguf")
    assert reader.fields["general.license"].contents() == "apache-2.0"
    assert reader.fields["tokenizer.ggml.tokens"].contents() == ["a", "ä", "日本"]
    assert {tensor.name for tensor in reader.tensors} == set(made)
    for tensor in reader.tensors:
        found = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        wanted = made[tensor.name].astype(np.float32)
        assert found.shape == wanted.shape
        error = float(np.sqrt(np.mean((found - wanted) ** 2)))
        assert error < 0.1, (tensor.name, tensor.tensor_type, error)
        if tensor.name.endswith("_norm.weight"):
            assert error == 0.0, "small and sensitive: left as it was"


def test_sensitive_tensors_get_more_bits(tmp_path: Path) -> None:
    """Q4_K_M spends more on the output and on some layers' values, as llama.cpp does; Q4_K_S does not."""
    network(tmp_path / "in.gguf")
    kinds: dict[str, dict[str, str]] = {}
    for to in ("Q4_K_M", "Q4_K_S"):
        quantise_gguf(tmp_path / "in.gguf", tmp_path / f"{to}.gguf", to, quiet)
        kinds[to] = {tensor.name: NAMES[tensor.kind] for tensor in read_layout(tmp_path / f"{to}.gguf").tensors}
    medium, small = kinds["Q4_K_M"], kinds["Q4_K_S"]
    assert medium["token_embd.weight"] == small["token_embd.weight"] == "Q6_K"
    assert [medium[f"blk.{layer}.attn_v.weight"] for layer in range(LAYERS)].count("Q6_K") == 4
    assert medium["blk.0.ffn_down.weight"] == "Q6_K"
    assert medium["blk.0.attn_q.weight"] == "Q4_K"
    assert {small[f"blk.{layer}.attn_v.weight"] for layer in range(LAYERS)} == {"Q4_K"}


def test_rows_that_do_not_fit_get_a_larger_type(tmp_path: Path) -> None:
    """Rows that are no multiple of 256 numbers cannot be Q4_K: they become Q5_0, and that is told."""
    network(tmp_path / "in.gguf", row=96)
    notes = quantise_gguf(tmp_path / "in.gguf", tmp_path / "out.gguf", "Q4_K_M", quiet)
    kinds = {tensor.name: NAMES[tensor.kind] for tensor in read_layout(tmp_path / "out.gguf").tensors}
    assert kinds["blk.1.attn_q.weight"] == "Q5_0"
    assert kinds["token_embd.weight"] == "Q8_0"
    assert "got a larger type" in notes[0]


@pytest.mark.parametrize(
    ("content", "to", "says"),
    [
        (None, "Q9_9", "one of: F16"),
        (b"GGUF\3\0\0\0", "Q8_0", "damaged or cut short"),
        (b"<html>", "Q8_0", "not a model"),
        (gguf_bytes({"general.type": "adapter"}), "Q8_0", "is an adapter"),
    ],
)
def test_what_cannot_be_done_leaves_nothing(tmp_path: Path, content: bytes | None, to: str, says: str) -> None:
    """An unknown type, a damaged file, a web page, an adapter: a sentence, and no file."""
    source = tmp_path / "in.gguf"
    if content is None:
        network(source)
    else:
        source.write_bytes(content)
    with pytest.raises(QuantiseError, match=says):
        quantise(source, tmp_path / "out.gguf", to, quiet)
    assert list(tmp_path.iterdir()) == [source]


def test_numbers_that_are_none_are_found(tmp_path: Path) -> None:
    """A weight that is not a number ends it: llama.cpp would write rubbish."""
    source = tmp_path / "in.gguf"
    network(source)
    data = bytearray(source.read_bytes())
    place = next(tensor for tensor in read_layout(source).tensors if tensor.name == "blk.0.attn_q.weight").offset
    data[place : place + 4] = struct.pack("<f", float("nan"))
    source.write_bytes(data)
    with pytest.raises(QuantiseError, match="not finite"):
        quantise_gguf(source, tmp_path / "out.gguf", "Q8_0", quiet)
    assert list(tmp_path.iterdir()) == [source]


def test_a_file_that_the_engine_cannot_load_is_not_quantised(tmp_path: Path) -> None:
    """Tensors without a network around them: the engine's refusal is told, and nothing is written."""
    source = tmp_path / "in.gguf"
    network(source)
    with pytest.raises(QuantiseError, match=r"cannot be measured: llama\.cpp cannot load"):
        quantise(source, tmp_path / "out.gguf", "Q8_0", quiet)
    assert list(tmp_path.iterdir()) == [source]
