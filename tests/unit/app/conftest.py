"""The two ends between which a WebSocket changes its process."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from handing_over import PATIENCE_S, Far, Near

from app import handoff


@pytest.fixture(autouse=True)
def _patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway that stood still with its machine is not one that is frozen."""
    monkeypatch.setattr(handoff, "HANDOVER_S", PATIENCE_S)
    monkeypatch.setattr(handoff, "ASK_S", PATIENCE_S)


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
