"""Names of uploaded files: relative paths with `/`, never absolute, never leaving their folder."""

from __future__ import annotations

NAME_CHARS_MAX = 500
PARTS_MAX = 64


class BadName(ValueError):
    """This cannot be the name of a document; the text says why."""


def clean_name(given: str) -> str:
    """The name under which a file of this path is stored. Raises BadName."""
    parts = [part for part in given.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        raise BadName("a file needs a name.")
    if ".." in parts:
        raise BadName("a name must not lead out of its folder ('..').")
    name = "/".join(parts)
    if len(name) > NAME_CHARS_MAX or len(parts) > PARTS_MAX:
        raise BadName(f"a name may have {NAME_CHARS_MAX} characters and {PARTS_MAX} parts.")
    if not name.isprintable():
        raise BadName("a name must not have control characters.")
    return name
