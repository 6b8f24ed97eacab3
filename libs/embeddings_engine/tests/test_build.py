"""The builder: what runs fast computes what the checkpoint says."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_checkpoint import HIDDEN, WORDS, write_checkpoint

from embeddings_engine import EmbeddingsEngine, ModelUnavailable, SelfTestFailed, build_bundle, ensure_bundle
from embeddings_engine.build.checkpoint import read_checkpoint
from embeddings_engine.build.encoder import embed_ids
from embeddings_engine.build.tflite import build_tflite, quantise_rows
from embeddings_engine.tokens import Item

FAMILIES: dict[str, dict[str, Any]] = {
    "minilm": {},
    "bge": {"pooling": "cls"},
    "e5-half": {"dtype": "F16", "num_hidden_layers": 3},
    "bfloat": {"dtype": "BF16", "hidden_act": "gelu_new"},
    "xlm-roberta": {"model_type": "xlm-roberta", "hidden_act": "relu", "num_attention_heads": 2},
}


def sequences() -> list[list[int]]:
    """Token ids of all lengths, so that every signature is used both full and padded."""
    random = np.random.default_rng(3)
    return [[int(i) for i in random.integers(5, len(WORDS), size)] for size in (1, 2, 15, 16, 17, 40, 64, 100, 128)]


@pytest.mark.parametrize("backend", ["tflite", "onnx"])
@pytest.mark.parametrize("family", FAMILIES)
def test_built_model_computes_the_checkpoint(tmp_path: Path, family: str, backend: str) -> None:
    """Both forms agree with float32 numpy, for each pooling, activation, number type and position scheme."""
    checkpoint = write_checkpoint(tmp_path / "in", **FAMILIES[family])
    weights = read_checkpoint(checkpoint)
    with EmbeddingsEngine(checkpoint, "cpu", backend=backend, cache_dir=tmp_path / "cache") as engine:
        for ids in sequences():
            found = engine._backend.run([Item("", ids, len(ids))], query=False)[0]
            cosine = float(found @ embed_ids(weights, ids))
            assert cosine > (0.99999 if backend == "onnx" else 0.995), (family, len(ids), cosine)
            assert abs(float(np.linalg.norm(found)) - 1) < 1e-3


def test_padding_changes_nothing(tmp_path: Path) -> None:
    """A text has the same vector in a batch of longer ones as alone (ONNX pads batches)."""
    checkpoint = write_checkpoint(tmp_path / "in")
    with EmbeddingsEngine(checkpoint, "cpu", backend="onnx", cache_dir=tmp_path) as engine:
        items = [Item("", ids, len(ids)) for ids in sequences()]
        together = engine._backend.run(items, query=False)
        alone = np.stack([engine._backend.run([item], query=False)[0] for item in items])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_signatures_share_their_weights(tmp_path: Path) -> None:
    """Six more signatures cost less than a tenth of what the model's own weights would."""
    weights = read_checkpoint(write_checkpoint(tmp_path, hidden_size=256, intermediate_size=1024))
    one, many = len(build_tflite(weights, (16,))), len(build_tflite(weights, (16, 17, 18, 19, 20, 21, 22)))
    assert (many - one) / 6 < 0.1 * one


def test_signatures_longer_than_the_positions_are_left_out(tiny: Path) -> None:
    """A model of 130 positions gets signatures up to 128, and reads no more."""
    with EmbeddingsEngine(tiny, "cpu") as engine:
        assert engine.traits.window_tokens == 128
        assert engine.window_tokens == 126


def test_quantised_rows_come_back_within_half_a_step() -> None:
    """The largest weight of a row is exact, and a row of zeros stays zeros."""
    weight = np.random.default_rng(0).normal(size=(5, 40)).astype(np.float32)
    weight[2] = 0
    codes, scales = quantise_rows(weight)
    assert np.abs(codes * scales[:, None] - weight).max() <= scales.max() / 2 + 1e-7
    assert not codes[2].any()


def test_a_checkpoint_is_built_once(tmp_path: Path) -> None:
    """The second call finds the bundle; changed weights are built anew."""
    checkpoint = write_checkpoint(tmp_path / "in")
    told: list[str] = []
    first = ensure_bundle(checkpoint, tmp_path / "cache", lambda share, text: told.append(text))
    assert told
    told.clear()
    assert ensure_bundle(checkpoint, tmp_path / "cache", lambda share, text: told.append(text)).folder == first.folder
    assert not told
    write_checkpoint(checkpoint, seed=1, num_hidden_layers=1)
    assert ensure_bundle(checkpoint, tmp_path / "cache").fingerprint != first.fingerprint


def test_a_runtime_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    """Weights that do not give the bundle's float32 vectors fail the self-test at load."""
    good = build_bundle(write_checkpoint(tmp_path / "a"), tmp_path / "good")
    other = build_bundle(write_checkpoint(tmp_path / "b", seed=9), tmp_path / "other")
    (good.folder / "model.tflite").write_bytes((other.folder / "model.tflite").read_bytes())
    with pytest.raises(SelfTestFailed, match="cosine"):
        EmbeddingsEngine(good.folder, "cpu")


def _cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])


def _config(**changes: Any) -> Any:
    def change(folder: Path) -> None:
        path = folder / "config.json"
        settings = json.loads(path.read_text()) | changes
        path.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))

    return change


def _write(name: str, text: str) -> Any:
    return lambda folder: (folder / name).write_text(text)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (_cut, "cut off"),
        (_write("model.safetensors", "no such thing at all"), "not a safetensors file"),
        (lambda folder: (folder / "model.safetensors").unlink(), "missing"),
        (_config(model_type="mpnet"), "mpnet"),
        (_config(hidden_act="swish"), "activation"),
        (_config(hidden_size=None), "hidden_size"),
        (_config(num_hidden_layers=5), "no tensor"),
        (_write("config.json", "{"), "not JSON"),
        (_write("1_Pooling/config.json", '{"pooling_mode_max_tokens": true}'), "mean and cls"),
        (_write("modules.json", '[{"type": "sentence_transformers.models.Dense"}]'), "Dense"),
    ],
)
def test_what_cannot_be_built_says_why(tmp_path: Path, damage: Any, said: str) -> None:
    """A checkpoint that is damaged or of another kind is refused with its name and the reason."""
    checkpoint = write_checkpoint(tmp_path / "in")
    damage(checkpoint)
    with pytest.raises(ModelUnavailable, match=said):
        build_bundle(checkpoint, tmp_path / "out")


def test_usage_comes_from_the_checkpoint_before_the_catalogue(tmp_path: Path) -> None:
    """Prompts and window that the checkpoint states win; a known name fills in what it leaves out."""
    checkpoint = write_checkpoint(tmp_path / "e5-small-v2")
    bundle = build_bundle(checkpoint, tmp_path / "one")
    assert (bundle.query_prefix, bundle.document_prefix) == ("query: ", "passage: ")
    (checkpoint / "sentence_bert_config.json").write_text('{"max_seq_length": 40}')
    (checkpoint / "config_sentence_transformers.json").write_text('{"prompts": {"query": "ask: "}}')
    bundle = build_bundle(checkpoint, tmp_path / "two")
    assert (bundle.query_prefix, bundle.document_prefix, bundle.window_tokens) == ("ask: ", "passage: ", 40)


def test_the_command_builds_and_embeds(tmp_path: Path) -> None:
    """`build` and `encode` work from a shell, and a bad folder is an error in words with status 1."""
    checkpoint = write_checkpoint(tmp_path / "in")
    run = [sys.executable, "-m", "embeddings_engine"]
    build = [*run, "build", checkpoint, tmp_path / "out", "--tokens", "16,128"]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert "MB in" in built.stdout
    encode = [*run, "encode", "--model", str(tmp_path / "out"), "--device", "cpu"]
    lines = subprocess.run(encode, input="the sea\nthe wind\n", capture_output=True, text=True, check=True).stdout
    assert [len(json.loads(line)) for line in lines.splitlines()] == [HIDDEN, HIDDEN]
    bad = subprocess.run(
        [*run, "build", tmp_path / "none", tmp_path / "x"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 1
    assert "config.json is missing" in bad.stderr
