"""Google's test models for Edge TPUs, where somebody put them beside the checkout; nothing fetches them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOLDER = Path(os.environ.get("REEF_TEST_DATA") or Path(__file__).parents[2] / "shared" / "data") / "coral"


def coral(name: str) -> Path:
    """A file of google-coral/test_data; the test is skipped where it is not here."""
    path = FOLDER / name
    if not path.is_file():
        pytest.skip(f"{path} is absent: REEF_TEST_DATA names a folder with coral/ of google-coral/test_data")
    return path


def coral_files(pattern: str) -> list[Path]:
    """Those that are here."""
    return sorted(FOLDER.glob(pattern))
