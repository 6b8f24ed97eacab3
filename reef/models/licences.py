"""The licence of a model that is a folder of files, as its package says it. Reads a few lines, never a weight."""

from __future__ import annotations

import re
from pathlib import Path

READ_CHARS_MAX = 4096
_STATED = {
    "NOTICE": re.compile(r"^\s*licen[cs]e:\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE),
    "README.md": re.compile(r"\A---\n(?:(?!---).*\n)*?licen[cs]e:\s*(\S.*?)\s*$", re.IGNORECASE | re.MULTILINE),
}
"""Files that name a licence in so many words, the surer first."""
_TEXTS = (
    (re.compile(r"Apache License\s+Version 2\.0"), "Apache-2.0"),
    (re.compile(r"\bMIT License\b|Permission is hereby granted, free of charge"), "MIT"),
)
"""How the texts of licences begin."""


def licence_of(folder: Path) -> str:
    """Of the model in this folder; empty where its files do not say."""
    for name, pattern in _STATED.items():
        if found := pattern.search(_beginning(folder / name)):
            return found[1]
    text = _beginning(folder / "LICENSE")
    return next((name for pattern, name in _TEXTS if pattern.search(text)), "")


def _beginning(path: Path) -> str:
    try:
        with path.open(encoding="utf-8", errors="replace") as file:
            return file.read(READ_CHARS_MAX)
    except OSError:
        return ""
