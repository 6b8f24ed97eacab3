"""From bytes to text: which encoding they are in. Knows no format."""

from __future__ import annotations

import codecs

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
SAMPLE_BYTES = 256 * 1024
"""Of a file in an unknown encoding, this much is looked at."""
ZEROS_SHARE = 0.3
"""A share of zero bytes at even or odd places above this means UTF-16."""


def decode(data: bytes) -> tuple[str, str, str]:
    """Text, the encoding's name, and a warning where characters had to be replaced (else empty)."""
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
    return _tolerant(data, _guess(data))


def _wide(data: bytes) -> str:
    sample = data[:SAMPLE_BYTES]
    half = len(sample) // 2
    if half < 2 or len(sample.strip(b"\0")) == 0:
        return ""
    even, odd = sample[0::2].count(0) / half, sample[1::2].count(0) / half
    if odd > ZEROS_SHARE and even < ZEROS_SHARE / 10:
        return "utf-16-le"
    if even > ZEROS_SHARE and odd < ZEROS_SHARE / 10:
        return "utf-16-be"
    return ""


def _mostly_utf8(data: bytes, first_bad: int) -> bool:
    sample = data[: max(SAMPLE_BYTES, first_bad + 1024)]
    text = sample.decode("utf-8", "replace")
    bad = text.count("�")
    good = sum(character > "\x7f" for character in text) - bad
    return bad * 20 < good


def _guess(data: bytes) -> str:
    # imported where it is needed: most files are UTF-8
    from charset_normalizer import from_bytes

    found = from_bytes(data[:SAMPLE_BYTES]).best()
    return found.encoding if found else "windows-1252"


def _tolerant(data: bytes, encoding: str) -> tuple[str, str, str]:
    text = data.decode(encoding, "replace")
    bad = text.count("�")
    warning = f"{bad} characters could not be read as {encoding} and were replaced." if bad else ""
    return text, encoding, warning
