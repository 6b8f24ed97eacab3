"""Texts that JSON can carry and a database cannot: the character U+0000."""

from __future__ import annotations

from typing import Any

import msgspec

from app.refusals import Refusal

NUL = "\x00"


def refuse_nul(raw: bytes | str, value: Any) -> None:
    """Raises Refusal where a text of this decoded JSON contains U+0000."""
    escaped = "\\u0000" in raw if isinstance(raw, str) else b"\\u0000" in raw
    if escaped:
        refuse_nul_in(msgspec.to_builtins(value))


def refuse_nul_in(values: Any) -> None:
    """Raises Refusal where a text of these plain values contains U+0000."""
    if _has_nul(values):
        raise Refusal(400, "nul", "Invalid request", "A text contains the character U+0000, which cannot be stored.")


def _has_nul(value: Any) -> bool:
    if isinstance(value, str):
        return NUL in value
    if isinstance(value, dict):
        return any(_has_nul(key) or _has_nul(item) for key, item in value.items())
    return isinstance(value, list | tuple) and any(_has_nul(item) for item in value)
