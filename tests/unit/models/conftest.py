"""Model files and where they come from, for the tests of reef/models."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from model_files import BadServer, gguf_bytes


@pytest.fixture
def bad_server() -> Iterator[BadServer]:
    """A web server on loopback that does what a test asks, good or bad."""
    server = BadServer()
    yield server
    server.close()


@pytest.fixture
def make_gguf() -> Callable[..., bytes]:
    """Builds the bytes of a tiny model file."""
    return gguf_bytes


@pytest.fixture
def gguf_file(tmp_path: Path) -> Path:
    """A tiny model file of the user's own."""
    path = tmp_path / "own.gguf"
    path.write_bytes(gguf_bytes())
    return path
