"""Frames written and read by hand, so that the tests do not believe the code they test."""

from __future__ import annotations

import struct
from typing import NamedTuple

KEY = b"\x0f\xa0\x31\xc7"


def xor(payload: bytes, key: bytes) -> bytes:
    """Masking as the RFC writes it."""
    return bytes(byte ^ key[at % 4] for at, byte in enumerate(payload))


def head(
    opcode: int, length: int, *, fin: bool = True, rsv: int = 0, masked: bool = True, width: int | None = None
) -> bytes:
    """A frame's head without its key. `width`: bytes of the extended length, by default as few as can be."""
    first, mask = (0x80 if fin else 0) | rsv << 4 | opcode, 0x80 if masked else 0
    if width is None:
        width = 0 if length < 126 else 2 if length < 65536 else 8
    if width == 0:
        return bytes((first, mask | length))
    return bytes((first, mask | (126 if width == 2 else 127))) + struct.pack(">H" if width == 2 else ">Q", length)


def frame(
    opcode: int,
    payload: bytes = b"",
    *,
    fin: bool = True,
    rsv: int = 0,
    key: bytes | None = KEY,
    width: int | None = None,
) -> bytes:
    """A frame. `key`: None for one that is not masked."""
    start = head(opcode, len(payload), fin=fin, rsv=rsv, masked=key is not None, width=width)
    return start + (payload if key is None else key + xor(payload, key))


class Frame(NamedTuple):
    """A frame that was read."""

    fin: bool
    rsv: int
    opcode: int
    payload: bytes
    masked: bool


def read_frames(stream: bytes) -> list[Frame]:
    """All frames of a stream that ends with a whole one."""
    frames, at = [], 0
    while at < len(stream):
        first, second = stream[at], stream[at + 1]
        length, at = second & 0x7F, at + 2
        if length >= 126:
            width = 2 if length == 126 else 8
            length, at = int.from_bytes(stream[at : at + width], "big"), at + width
        key = b""
        if second & 0x80:
            key, at = stream[at : at + 4], at + 4
        assert at + length <= len(stream), "a frame is cut off"
        payload = stream[at : at + length]
        frames.append(
            Frame(bool(first & 0x80), first >> 4 & 7, first & 15, xor(payload, key) if key else payload, bool(key))
        )
        at += length
    return frames


def closing(code: int, reason: str = "") -> bytes:
    """The payload of a closing frame."""
    return struct.pack(">H", code) + reason.encode()
