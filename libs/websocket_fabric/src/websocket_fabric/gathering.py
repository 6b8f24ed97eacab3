"""A message on its way: its pieces checked, inflated and put together as they come. Knows no frames and no roles."""

from __future__ import annotations

import codecs
import io
import zlib

from websocket_fabric.codes import BAD_TEXT, TOO_BIG, Violation
from websocket_fabric.deflate import Inflater
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data


class Gathering:
    """One message that did not come in one piece, or came compressed.

    It grows in place: a thousand fragments of one byte take the memory of a thousand bytes, empty ones none. Text is
    checked as it comes, so that what is no UTF-8 is refused at its first wrong byte, and decoded at the end.
    """

    __slots__ = (
        "_bytes",
        "_bytes_max",
        "_data",
        "_fragments",
        "_fragments_max",
        "_inflater",
        "_rest",
        "_text",
        "_wire",
    )

    def __init__(self, limits: Limits, text: bool, inflater: Inflater | None) -> None:
        """`inflater`: for a compressed message."""
        self._text = text
        self._data = io.BytesIO()
        self._rest = b""
        self._bytes_max, self._fragments_max = limits.message_bytes_max, limits.fragments_max
        self._wire = self._bytes = self._fragments = 0
        self._inflater = inflater

    def announce(self, length: int) -> None:
        """One more frame begins. Raises Violation where the message would get too long."""
        self._fragments += 1
        self._wire += length
        # what cannot be compressed gets longer by trying, though never by as much as this
        slack = self._bytes_max // 8 + 64 if self._inflater else 0
        if self._wire > self._bytes_max + slack:
            raise Violation(TOO_BIG, f"a message may have {self._bytes_max} bytes")
        if self._fragments > self._fragments_max:
            raise Violation(TOO_BIG, f"a message may have {self._fragments_max} fragments")

    def add(self, piece: bytes, last: bool) -> None:
        """The next bytes of the payload, unmasked; `last` with the end of the last frame. Raises Violation."""
        if self._inflater is not None:
            self._inflate(self._inflater, piece, last)
            return
        if self._text:
            self._check(piece, last)
        self._data.write(piece)

    def whole(self) -> Data:
        """The message."""
        data = self._data.getvalue()
        return data.decode() if self._text else data

    def _inflate(self, inflater: Inflater, packed: bytes, last: bool) -> None:
        try:
            for piece in inflater.inflate(packed, self._bytes_max - self._bytes, last=last):
                if self._text:
                    self._check(piece, False)
                self._bytes += len(piece)
                if self._bytes > self._bytes_max:
                    raise Violation(TOO_BIG, f"a message may have {self._bytes_max} bytes")
                self._data.write(piece)
        except zlib.error:
            raise Violation(BAD_TEXT, "a message that cannot be inflated") from None
        if last and self._text:
            self._check(b"", True)

    def _check(self, piece: bytes, last: bool) -> None:
        data = self._rest + piece if self._rest else piece
        try:
            _text, used = codecs.utf_8_decode(data, "strict", last)
        except UnicodeDecodeError:
            raise Violation(BAD_TEXT, "text that is not UTF-8") from None
        self._rest = data[used:]
