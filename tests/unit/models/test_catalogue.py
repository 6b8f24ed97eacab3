"""The catalogue of models."""

from __future__ import annotations

import msgspec
import pytest

from reef.models import load_catalogue

ENTRY = """
  - name: {name}
    title: T
    about: A
    licence: MIT
    context: 2048
    size_bytes: 10
    sha256: {sha}
    demo: {demo}
    better: {better}
    sources: [{source}]
"""


def catalogue(**fields: str) -> str:
    """A catalogue of one entry with some fields replaced."""
    values = {"name": "a", "sha": "a" * 64, "demo": "true", "better": "''", "source": "{url: 'https://h/x.gguf'}"}
    return "models:" + ENTRY.format(**(values | fields))


def test_shipped_catalogue_holds() -> None:
    """One demo model comes first, offers a better one, and every model with packages has a hash to check them by."""
    entries = load_catalogue()
    demo = next(iter(entries.values()))
    assert demo.demo
    assert demo.name == "smollm2-135m-instruct"
    assert entries[demo.better].size_shown_bytes > demo.size_shown_bytes
    for entry in entries.values():
        if any(source.wheels for source in entry.sources):
            assert entry.sha256
            assert entry.size_bytes


@pytest.mark.parametrize(
    "fields",
    [
        {"sha": "abc"},
        {"source": "{}"},
        {"source": "{url: 'https://h/x', wheels: [a==1]}"},
        {"name": "../a"},
        {"demo": "false"},
        {"better": "nobody"},
        {"demo": "true\n    size: 3"},
    ],
)
def test_mistakes_are_refused(fields: dict[str, str]) -> None:
    """A short hash, a source without or with two places, a path as name, no demo, an unknown offer, a stray key."""
    assert load_catalogue(catalogue())
    with pytest.raises((ValueError, msgspec.ValidationError)):
        load_catalogue(catalogue(**fields))
