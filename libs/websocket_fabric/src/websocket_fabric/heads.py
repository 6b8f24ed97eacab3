"""The head of an HTTP/1.1 message, read as it comes: bounded, strict, and in time that grows with its size only."""

from __future__ import annotations

import re
from dataclasses import dataclass

from websocket_fabric.limits import Limits

END = b"\r\n\r\n"
TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
VALUE = re.compile(r"[\t\x20-\x7e]*")
ONCE = frozenset(
    ["content-length", "host", "origin", "sec-websocket-accept", "sec-websocket-key", "sec-websocket-version"]
)
"""Headers that mean something else to somebody else where they are there twice."""


class BadHead(Exception):
    """It is no head that is read here; `status` is what a server answers."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Head:
    """The first line and the headers. Names are lower case; repeated ones are joined by commas."""

    first_line: str
    headers: dict[str, str]


class HeadReader:
    """Collects the bytes of one head. Each byte is looked at a fixed number of times, however it comes."""

    __slots__ = ("_begins", "_data", "_limits")

    def __init__(self, begins: bytes, limits: Limits | None = None) -> None:
        """`begins`: what every good head begins with; others are refused at their first bytes."""
        self._begins = begins
        self._limits = limits or Limits()
        self._data = bytearray()

    def feed(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and the bytes after it; None where it is not whole yet. Raises BadHead."""
        searched = max(0, len(self._data) - len(END) + 1)
        bytes_max = self._limits.handshake_bytes_max
        self._data += data
        if self._data[: len(self._begins)] != self._begins[: len(self._data)]:
            raise BadHead(400, f"This does not begin with {self._begins.decode().strip()}.")
        end = self._data.find(END, searched, bytes_max)
        if end >= 0:
            rest = bytes(self._data[end + len(END) :])
            return parse_head(bytes(self._data[:end]), self._limits), rest
        if len(self._data) >= bytes_max:
            raise BadHead(431, f"The head has more than {bytes_max} bytes.")
        return None


def parse_head(data: bytes, limits: Limits) -> Head:
    """The head without its empty line. Raises BadHead."""
    try:
        first_line, *lines = data.decode("ascii").split("\r\n")
    except UnicodeDecodeError:
        raise BadHead(400, "The head is not ASCII.") from None
    if VALUE.fullmatch(first_line) is None:
        raise BadHead(400, "The first line is malformed.")
    if len(lines) > limits.handshake_headers_max:
        raise BadHead(431, f"The head has more than {limits.handshake_headers_max} lines.")
    headers: dict[str, str] = {}
    for line in lines:
        name, _colon, value = line.partition(":")
        # what begins with a space continues the line before it, which HTTP no longer has
        if len(name) == len(line) or TOKEN.fullmatch(name) is None or VALUE.fullmatch(value) is None:
            raise BadHead(400, "A header line is malformed.")
        name, value = name.lower(), value.strip(" \t")
        if name in ONCE and name in headers:
            raise BadHead(400, f"{name} is there twice.")
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Head(first_line, headers)
