"""Words in a text that the databases' tokenizers would miss, and the words of a question. Pure functions on text.

SQLite's and PostgreSQL's tokenizers cut at spaces and keep accents as they are. So a chunk carries extra words beside
its text: pairs of neighbouring characters where a script has no spaces (Chinese, Japanese, Korean, Thai, ...), and
the plain form of words with accents, vowel marks, ligatures or wide letters. A question is cut by the same rules.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

import msgspec

QUESTION_CHARS_MAX = 2_000
"""Longer questions are cut before they are looked at word by word."""
QUESTION_WORDS_MAX = 48
"""More words make a full-text query slower, not better."""

_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Burmese, Khmer
    "\u2e80-\u2fdf\u3005-\u3007\u3021-\u3029\u3040-\u30ff\u3100-\u312f\u31a0-\u31bf\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_MARKS = (  # parts of words that Python's \\w leaves out: accents, Hebrew and Arabic vowels, the scripts of India
    "\u0300-\u036f\u0483-\u0487\u0591-\u05bd\u05bf-\u05c7\u0610-\u061a\u064b-\u065f\u0670\u06d6-\u06ed"
    "\u08d3-\u08ff\u0900-\u0963\u0966-\u0dff\u200c\u200d"
)
_LETTER = rf"(?:(?![{_UNSPACED}])[\w{_MARKS}])"
_PIECES = re.compile(rf"(?P<run>[{_UNSPACED}]+)|(?P<word>{_LETTER}+(?:['’.+#&/:@-]{_LETTER}+)*[+#]*)")
_SIGNS = re.compile(r"[.+#&/:@_-]+")
_BARE_MARK = re.compile(rf" (?=[{_MARKS}])")
"""What a mark that stands for itself (U+FE76) is written on when it is taken apart."""
_PLAIN_EXTRA = str.maketrans({"أ": "ا", "إ": "ا", "آ": "ا", "ٱ": "ا", "ى": "ي", "ة": "ه", "ـ": "", "ß": "ss"})

_STOP_WORDS = """
a about an and any are as at be been but by can could did do does for from had has have he her how i if in into is
it its may me my no not of on or our she should so some than that the their them then there these they this to
was we were what when where which who why will with would you your please tell explain mean
der das den dem des ein eine einer eines einem einen und oder ist sind wie was wer wo wann warum welche
welcher welches ich du er sie es wir ihr mit von zu im in auf für nicht auch
le la les un une des du de et ou est sont je tu il elle nous vous que qui quoi quel quelle où quand
pourquoi dans sur pour par avec ne pas ce cette ces
el los las y o es son yo tú que qué quién cómo dónde cuándo cuál por para con no se su del al
il lo gli i uno e che chi dove quando perché quale di da per con non si
het een en of is zijn ik jij hij wij hoe wat waar wanneer waarom welke van voor met niet op te
os as uma e é são eu ele nós como onde quando qual em por com não
"""
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""Words that say nothing about the subject, in the languages most often asked in. Left out of a question unless
nothing else is in it. Without those that mean something in English: die, war, come, comment."""


class Word(msgspec.Struct, frozen=True):
    """A word of a question: any of its forms counts as found."""

    forms: tuple[str, ...]
    prefix: bool = False
    """A single character of a script without spaces: it is found as the first of a pair."""


def extra_words(text: str) -> str:
    """What full-text search needs beside the text; nothing for plain English."""
    if text.isascii():
        return ""
    found: dict[str, None] = {}  # a set that keeps the order
    for kind, piece in _pieces(text):
        if kind == "run":
            found.update(dict.fromkeys(_pairs(piece)))
        elif (plain := plain_form(piece)) not in ("", piece.lower()):
            found[plain] = None
    return " ".join(found)


def folded(text: str) -> str | None:
    """The text as a search that does not mind case compares it; None where the databases' `lower` does the same.

    They differ beyond ASCII: SQLite folds nothing there, PostgreSQL what its locale says.
    """
    return None if text.isascii() else fold(text)


def fold(text: str) -> str:
    """The same for every way to write a text in capitals, small letters and with composed or separate accents."""
    return unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).casefold())


def question_words(question: str) -> list[Word]:
    """The words to look for. Empty where the question has none: only signs, or nothing."""
    found: dict[tuple[str, ...], Word] = {}
    stops: dict[tuple[str, ...], Word] = {}
    for kind, piece in _pieces(question[:QUESTION_CHARS_MAX]):
        for word in _words_of(kind, piece):
            (stops if word.forms[0] in STOP_WORDS else found).setdefault(word.forms, word)
    return list((found or stops).values())[:QUESTION_WORDS_MAX]


def plain_form(word: str) -> str:
    """A word without accents and vowel marks, in small letters: what people type who do not have them.

    Nothing is left of a mark that stands for itself. A sign for a whole blessing (U+FDFA) is several words.
    """
    decomposed = _BARE_MARK.sub("", unicodedata.normalize("NFKD", word.casefold().translate(_PLAIN_EXTRA)))
    plain = "".join(letter for letter in decomposed if not unicodedata.combining(letter))
    return unicodedata.normalize("NFC", plain).translate(_PLAIN_EXTRA)


def _words_of(kind: str, piece: str) -> list[Word]:
    if kind == "word":
        # a path, an address, a code: as a whole, and its parts
        parts = _SIGNS.split(piece)
        wanted = [piece, *parts] if len(parts) > 1 else [piece]
        return [
            Word(tuple(form for form in dict.fromkeys((one.lower(), plain_form(one))) if form))
            for one in wanted
            if any(map(str.isalnum, one))
        ]
    return [Word((pair,), prefix=len(pair) == 1) for pair in _pairs(piece)]


def _pieces(text: str) -> Iterator[tuple[str, str]]:
    for match in _PIECES.finditer(unicodedata.normalize("NFC", text.replace("\0", " "))):
        yield match.lastgroup or "", match.group()


def _pairs(run: str) -> list[str]:
    """Each two neighbouring characters; a lone one stands for itself."""
    return [run[place : place + 2] for place in range(len(run) - 1)] or [run]
