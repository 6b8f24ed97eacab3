"""Names of uploaded files: relative paths with `/`, never absolute, never leaving their folder."""

from __future__ import annotations

from itertools import count
from pathlib import PurePosixPath

NAME_CHARS_MAX = 500
PARTS_MAX = 64
SAME_NAME_MAX = 1_000
"""Files of one name in one upload."""
_DOUBLE_ENDINGS = (".tar.gz",)


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


def stem_and_ending(name: str) -> tuple[str, str]:
    """What is before and what is from the ending on: `notes`, `.txt`."""
    double = next((ending for ending in _DOUBLE_ENDINGS if name.lower().endswith(ending)), "")
    length = len(double or PurePosixPath(name).suffix)
    return (name[:-length], name[-length:]) if length else (name, "")


def distinct_name(name: str, taken: set[str]) -> str:
    """The name, or the first of `notes (2).txt`, `notes (3).txt`, … that is not taken. Raises BadName."""
    if name not in taken:
        return name
    if len(taken) >= SAME_NAME_MAX:
        raise BadName(f"an upload may have {SAME_NAME_MAX} files of one name; give them names of their own.")
    stem, ending = stem_and_ending(name)
    for number in count(2):
        mark = f" ({number})"
        another = stem[: NAME_CHARS_MAX - len(mark) - len(ending)] + mark + ending
        if another not in taken:
            return another
    raise AssertionError("numbers do not end")
