"""The catalogue of models."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from reef.models import load_catalogue
from reef.models.licences import licence_of

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


@pytest.mark.parametrize(
    ("name", "text", "licence"),
    [
        ("NOTICE", "Weights from elsewhere.\nLicense: Apache-2.0\nMIT License\n", "Apache-2.0"),
        ("README.md", "---\nlanguage: en\nlicense: mit\n---\n# A model\n", "mit"),
        ("README.md", "# A model\nlicense: ask somebody\n", ""),
        ("README.md", "---\nlanguage: en\n---\nlicense: ask somebody\n", ""),
        ("LICENSE", "                  Apache License\n            Version 2.0, January 2004\n", "Apache-2.0"),
        ("LICENSE", "MIT License\n\nCopyright\n", "MIT"),
        ("LICENSE", "All rights reserved.\n", ""),
    ],
)
def test_a_folder_says_its_licence(tmp_path: Path, name: str, text: str, licence: str) -> None:
    """As its package states it, or by the text of the licence; nothing is guessed."""
    (tmp_path / name).write_text(text, encoding="utf-8")
    assert licence_of(tmp_path) == licence
