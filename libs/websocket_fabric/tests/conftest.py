"""What every test of the library leaves behind: nothing."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def no_foreign_packages() -> Iterator[None]:
    """kosoku puts a `pkg_resources` of its own before the real one, which whoever comes next would take for that."""
    yield
    taken = sys.modules.get("pkg_resources")
    if taken is not None and "kosoku" in (taken.__file__ or ""):
        del sys.modules["pkg_resources"]
