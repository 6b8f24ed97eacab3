"""A tree of files in place of this machine's devices, and delegate libraries."""

from __future__ import annotations

from pathlib import Path

import edge_tpus
import pytest


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where sys and dev are, for the product and for the delegate double."""
    place = tmp_path / "machine"
    place.mkdir()
    monkeypatch.setenv("EDGE_TPU_ROOT", str(place))
    return place


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for what is built."""
    return tmp_path_factory.mktemp("libraries")


@pytest.fixture(scope="session")
def listing(libraries: Path) -> Path:
    """A delegate that lists its devices, as libedgetpu does."""
    return edge_tpus.build(libraries, "listed_edge_tpus")


@pytest.fixture(scope="session")
def silent(libraries: Path) -> Path:
    """One that cannot."""
    return edge_tpus.build(libraries, "listed_edge_tpus", "-DUNLISTED")
