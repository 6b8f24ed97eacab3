"""From bytes to text: which encoding they are in. Knows no format."""

from __future__ import annotations

import codecs
import re

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_DECLARED = re.compile(rb"""(?:charset|encoding)\s*=\s*["']?([A-Za-z0-9_-]{2,30})""")
DECLARED_BYTES = 2048
SAMPLE_BYTES = 256 * 1024
"""Of a file in an unknown encoding, this much is looked at."""
WESTERN = "cp1252"
JAPANESE = ("cp932", "euc_jp")
OTHERS = ("cp1250", "iso8859_2", "cp1251", "koi8_r", "cp866", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp874",
          "gb18030", "big5", "cp949")  # fmt: skip
"""What is told apart where the text is not UTF-8; rarer encodings only make guesses worse."""
_ACCENTED = frozenset("àâäáãåæçèéêëìíîïñòóôöõøœùúûüßÀÂÄÁÃÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÖÕØŒÙÚÛÜ«»“”„‘’–—…¿¡°§€£ºª·©®×½\xa0")
LOW_SHARE = 0.3
"""A larger share of low bytes at even places alone, or at odd ones, means UTF-16."""


def decode(data: bytes, declared: str = "") -> tuple[str, str, str]:
    """Text, the encoding's name, and a warning where characters had to be replaced (else empty).

    What a file declares of itself is believed only where it fits the bytes, and after UTF-8.
    """
    for mark, name in _MARKS:
        if data.startswith(mark):
            return _tolerant(data[len(mark) if name == "utf-8" else 0 :], name)
    wide = _wide(data)
    if wide:
        return _tolerant(data, wide)
    try:
        return data.decode("utf-8"), "utf-8", ""
    except UnicodeDecodeError as error:
        # one broken byte in a long UTF-8 file is damage, not another encoding
        if _mostly_utf8(data, error.start):
            return _tolerant(data, "utf-8")
    return _tolerant(data, declared if _fits(data, declared) else _guess(data))


def declared_encoding(data: bytes) -> str:
    """What a web page or an XML file says about itself; empty where it says nothing."""
    found = _DECLARED.search(data[:DECLARED_BYTES])
    return found[1].decode("ascii").lower() if found else ""


def _fits(data: bytes, encoding: str) -> bool:
    try:
        data.decode(encoding)
    except (LookupError, UnicodeError):
        return False
    return bool(encoding)


def _wide(data: bytes) -> str:
    sample = data[:SAMPLE_BYTES]
    half = len(sample) // 2
    if half < 2 or len(sample.strip(b"\0")) == 0:
        return ""
    even, odd = low_bytes(sample[0::2]) / half, low_bytes(sample[1::2]) / half
    if odd > LOW_SHARE and even < LOW_SHARE / 10:
        return "utf-16-le"
    if even > LOW_SHARE and odd < LOW_SHARE / 10:
        return "utf-16-be"
    return ""


def low_bytes(sample: bytes) -> int:
    """Bytes below 9: no character has them, but they are the upper half of one in UTF-16 from Latin to Arabic."""
    return len(sample) - len(sample.translate(None, bytes(range(9))))


def _mostly_utf8(data: bytes, first_bad: int) -> bool:
    sample = data[: max(SAMPLE_BYTES, first_bad + 1024)]
    text = sample.decode("utf-8", "replace")
    bad = text.count("�")
    good = sum(character > "\x7f" for character in text) - bad
    # text in another encoding hardly ever makes a well-formed character of several bytes
    return bad * 2 <= good


def _guess(data: bytes) -> str:
    # imported where it is needed: most files are UTF-8
    from charset_normalizer import from_bytes

    sample = data[:SAMPLE_BYTES]
    if _is_western(sample):
        return WESTERN
    japanese = next((name for name in JAPANESE if _has_kana(sample, name)), "")
    if japanese:
        return japanese
    best = from_bytes(sample, cp_isolation=list(OTHERS)).best()
    return best.encoding if best else WESTERN


def _is_western(sample: bytes) -> bool:
    """French or Spanish: accented letters of the usual kind that stand alone. Detectors see Baltic or Czech in it."""
    wide = [character for character in sample.decode(WESTERN, "replace") if character > "\x7f"]
    usual = sum(character in _ACCENTED for character in wide)
    pairs = len(re.findall(rb"[\xc0-\xff]{2}", sample))
    return usual >= len(wide) * 0.97 and pairs <= len(wide) * 0.3


def _has_kana(sample: bytes, encoding: str) -> bool:
    """Japanese in its own encodings: read as any other it shows no kana, and detectors take it for Korean."""
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(sample)
    except UnicodeDecodeError:
        return False
    wide = sum(character > "\x7f" for character in text)
    kana = sum("\u3041" <= character <= "\u30fe" for character in text)
    return kana * 10 > wide and kana > 2


def _tolerant(data: bytes, encoding: str) -> tuple[str, str, str]:
    text = data.decode(encoding, "replace")
    bad = text.count("�")
    warning = f"{bad} characters could not be read as {encoding} and were replaced." if bad else ""
    return text, encoding, warning
