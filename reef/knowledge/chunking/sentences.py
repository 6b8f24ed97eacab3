"""Where sentences end, in the scripts that we meet. Plain rules, no model; works on spans, copies no text."""

from __future__ import annotations

import re
from collections.abc import Iterator

_ABBREVIATIONS = frozenset(
    """mr mrs ms dr prof st sr jr vs etc e.g i.e cf al no nos vol pp p fig figs eq sec ch ed eds inc ltd co corp dept
    est approx resp jan feb mar apr jun jul aug sep sept oct nov dec a.m p.m u.s u.k ph.d
    z.b d.h u.a bzw usw ca nr str hr fr abs art bd hrsg vgl s
    mme mlle m etc sra dra ing av num núm ex tel""".split()  # noqa: SIM905
)
_END = re.compile(
    r"""
    (?P<stop>[.!?…]+["'”’»)\]]*)(?=\s)       # with a space behind it: needs a second look
    | [。！？｡][」』）》”’〉】"')]*            # CJK needs none
    | [؟۔।॥።][»”"')]*(?=\s)?                 # Arabic, Urdu, Devanagari, Ethiopic
    | \n[^\S\n]*(?=\n)                       # an empty line ends any sentence
    | \s{200}                                # so does a desert
    """,
    re.VERBOSE,
)
_WORD = re.compile(r"[\w.]+$")
LOOK_BACK = 24
"""How far back the word before a full stop is looked for."""


def sentences(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of the sentences between two places, without the blanks around them."""
    at = start
    for found in _END.finditer(text, start, end):
        if found["stop"] and not _ends_here(text, found):
            continue
        yield from bare(text, at, found.end())
        at = found.end()
    yield from bare(text, at, end)


def lines(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Spans of the lines that are not blank, with their indentation, without blanks behind them."""
    at = start
    while at < end:
        stop = text.find("\n", at, end)
        stop = end if stop < 0 else stop
        line_end = at + len(text[at:stop].rstrip())
        if line_end > at:
            yield at, line_end
        at = stop + 1


def bare(text: str, start: int, end: int) -> Iterator[tuple[int, int]]:
    """The span without blanks at its ends, or nothing."""
    piece = text[start:end]
    start += len(piece) - len(piece.lstrip())
    end -= len(piece) - len(piece.rstrip())
    if start < end:
        yield start, end


def _ends_here(text: str, found: re.Match[str]) -> bool:
    """Whether a full stop with a space behind it ends a sentence: not after abbreviations and initials."""
    if found["stop"][0] != ".":
        return True
    following = text[found.end() : found.end() + 3].lstrip()[:1]
    if following.islower():
        return False
    word = _WORD.search(text, max(0, found.start() - LOOK_BACK), found.start())
    if not word:
        return True
    said = word[0].lower().strip(".")
    return said not in _ABBREVIATIONS and not (len(said) == 1 and said.isalpha())
