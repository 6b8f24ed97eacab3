"""The two ends between which a WebSocket changes its process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from handing_over import Far, Near


@pytest.fixture
def far(tmp_path: Path) -> Iterator[Far]:
    """A gateway that echoes."""
    end = Far(tmp_path / "run" / "gateway.sock")
    yield end
    end.close()


@pytest.fixture
def near(tmp_path: Path) -> Iterator[Near]:
    """The web process's end for it."""
    end = Near(tmp_path / "run" / "gateway.sock")
    yield end
    end.close()
