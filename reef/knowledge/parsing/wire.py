"""What a worker and its parsing children say to each other over pipes: length-prefixed MessagePack. Parses no file."""

from __future__ import annotations

import struct
from collections.abc import Callable

import msgspec

from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.limits import ParseLimits

LENGTH = struct.Struct(">I")
FRAME_BYTES_MAX = 256 * 1024 * 1024
"""A longer answer is no answer."""


class Setup(msgspec.Struct, frozen=True, tag=True):
    """The first thing a child is told."""

    limits: ParseLimits
    ocr_languages: str


class Request(msgspec.Struct, frozen=True, tag=True):
    """Read this file."""

    path: str
    name: str


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The child has loaded its libraries."""

    rss_bytes: int


class Parsed(msgspec.Struct, frozen=True, tag=True):
    """Here is the text."""

    document: ParsedDocument
    rss_bytes: int


class Refused(msgspec.Struct, frozen=True, tag=True):
    """The file cannot be read."""

    code: str
    message: str
    rss_bytes: int


Order = Setup | Request
Answer = Ready | Parsed | Refused
encode = msgspec.msgpack.Encoder().encode
decode_order: Callable[[bytes], Order] = msgspec.msgpack.Decoder(Order).decode
decode_answer: Callable[[memoryview], Answer] = msgspec.msgpack.Decoder(Answer).decode


def frame(message: Order | Answer) -> bytes:
    """A message ready to be written."""
    body = encode(message)
    return LENGTH.pack(len(body)) + body
