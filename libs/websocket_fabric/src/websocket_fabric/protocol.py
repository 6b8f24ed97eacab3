"""RFC 6455 without I/O: bytes in, messages out, and the frames that answer. Never touches a socket or a clock.

What a host does with it, for each read: take the messages that `feed` gives; write the pongs in `out`, then the frames
of its answers (`message`), then, where `closed` is set, the closing frame, which is the last in `out` unless one was
sent before; and end the connection (a server at once, a client when the server does or after a while). The order
matters: a pong is due before the message that came after its ping is answered, and nothing may follow a closing frame.
"""

from __future__ import annotations

import os
from typing import Literal

from websockets.speedups import apply_mask

from websocket_fabric.codes import (
    ABNORMAL,
    BAD_TEXT,
    GOING_AWAY,
    INTERNAL_ERROR,
    NO_CODE,
    NORMAL,
    POLICY,
    PROTOCOL_ERROR,
    SENDABLE,
    TOO_BIG,
    TRY_AGAIN_LATER,
    UNSUPPORTED,
    Violation,
    may_be_sent,
)
from websocket_fabric.deflate import Agreement, Inflater, compressor
from websocket_fabric.gathering import Gathering
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data

__all__ = [
    "ABNORMAL",
    "BAD_TEXT",
    "GOING_AWAY",
    "INTERNAL_ERROR",
    "NORMAL",
    "NO_CODE",
    "POLICY",
    "PROTOCOL_ERROR",
    "SENDABLE",
    "TOO_BIG",
    "TRY_AGAIN_LATER",
    "UNSUPPORTED",
    "Protocol",
    "Violation",
    "may_be_sent",
    "message_frame",
]

TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
FINAL, COMPRESSED, RESERVED, MASKED = 0x80, 0x40, 0x70, 0x80
WHOLE_TEXT, WHOLE_BINARY = FINAL | TEXT, FINAL | BINARY
CONTROL_BYTES_MAX = 125
KEYS_BYTES = 512
"""Of a client's masking keys, drawn at once."""

_TEXT_HEADS = tuple(bytes((WHOLE_TEXT, length)) for length in range(126))
_BINARY_HEADS = tuple(bytes((WHOLE_BINARY, length)) for length in range(126))


def message_frame(data: Data) -> bytes:
    """A server's frame of a whole message, not compressed: the same for every connection, deflate agreed or not."""
    if isinstance(data, str):
        data, kind, heads = data.encode(), WHOLE_TEXT, _TEXT_HEADS
    else:
        kind, heads = WHOLE_BINARY, _BINARY_HEADS
    length = len(data)
    if length < 126:
        return heads[length] + data
    if length < 65536:
        return bytes((kind, 126, length >> 8, length & 0xFF)) + data
    return _head(kind, length, 0) + data


def _head(kind: int, length: int, masked: int) -> bytes:
    if length < 126:
        return bytes((kind, masked | length))
    if length < 65536:
        return bytes((kind, masked | 126, length >> 8, length & 0xFF))
    return bytes((kind, masked | 127)) + length.to_bytes(8, "big")


class Protocol:
    """One side of an open connection."""

    __slots__ = (
        "_begun",
        "_compress_min",
        "_compressor",
        "_final",
        "_gathering",
        "_head_bytes",
        "_inflater",
        "_key",
        "_keys",
        "_left",
        "_limits",
        "_masked",
        "_tail",
        "close_code",
        "close_reason",
        "close_received",
        "close_sent",
        "closed",
        "in_order",
        "out",
        "pong",
    )

    def __init__(
        self,
        role: Literal["server", "client"] = "server",
        limits: Limits | None = None,
        *,
        deflate: Agreement | None = None,
    ) -> None:
        self._masked = MASKED if role == "server" else 0
        self._head_bytes = 6 if role == "server" else 2
        self._limits = limits or Limits()
        self._inflater = Inflater(deflate) if deflate else None
        self._compressor = compressor(deflate) if deflate else None
        self._compress_min = deflate.options.message_bytes_min if deflate else 0
        self._begun = False
        """There is something that the fast path of `feed` must not pass by."""
        self._tail = b""
        """A frame that is not whole: the start of its head, or a control frame."""
        self._gathering: Gathering | None = None
        """The message on its way, and of its frame on its way:"""
        self._left = 0
        """... the bytes that are still to come,"""
        self._key = b""
        """... the key for them,"""
        self._final = False
        """... and whether the message ends with it."""
        self._keys = b""
        self.in_order = self._compressor is not None and self._compressor.remembers
        """Every frame of `message` must be written, in the order in which they were made: they refer back."""
        self.out: list[bytes] = []
        """Frames that answer what came (pongs, the closing frame); the host writes and clears them."""
        self.pong = b""
        """The payload of the newest pong; the host takes it and clears it."""
        self.closed = False
        """Nothing more is read: the peer closed, or broke the protocol. What comes after that is ignored."""
        self.close_code = ABNORMAL
        """Why it ended, as seen from here.

        The code of the peer's closing frame, NO_CODE (1005) where that had none; the code it was given where it broke
        the protocol (`close_received` is False then); ABNORMAL (1006) as long as neither has happened, which is what
        remains when a connection is lost.
        """
        self.close_reason = ""
        """The peer's words, or what it did wrong."""
        self.close_received = False
        self.close_sent = False
        """A closing frame was made (it may still be in `out`); the host must write no message after it."""

    # --- what comes in

    def feed(self, data: bytes) -> list[Data]:
        """Complete messages in these bytes, in order. Answers are left in `out`; a violation closes, never raises."""
        messages: list[Data] = []
        masked, head_bytes, bytes_max, at = self._masked, self._head_bytes, self._limits.message_bytes_max, 0
        try:
            if self._begun:
                data = self._tail + data if self._tail else data
                at = self._carefully(data, 0, messages)
            end = len(data)
            # the common frame, as fast as can be: a whole message below 64 KB, not compressed, and all of it here
            while at <= end - 6:
                kind, length, body = data[at], data[at + 1] - masked, at + head_bytes
                if length > 125:
                    length, body = data[at + 2] << 8 | data[at + 3] if length == 126 else 0, body + 2
                    if length < 126:
                        length = -1
                after = body + length
                if kind == WHOLE_TEXT and 0 <= length <= bytes_max and after <= end:
                    payload = apply_mask(data[body:after], data[body - 4 : body]) if masked else data[body:after]
                    messages.append(payload.decode())
                    at = after
                elif kind == WHOLE_BINARY and 0 <= length <= bytes_max and after <= end:
                    payload = apply_mask(data[body:after], data[body - 4 : body]) if masked else data[body:after]
                    messages.append(payload)
                    at = after
                else:
                    at = self._carefully(data, at, messages)
            while at < end:
                at = self._carefully(data, at, messages)
        except UnicodeDecodeError:
            self._fail(Violation(BAD_TEXT, "text that is not UTF-8"))
        except Violation as violation:
            self._fail(violation)
        return messages

    def _carefully(self, data: bytes, at: int, messages: list[Data]) -> int:
        """Frames of every kind, until common ones may follow; gives where, which is the end if there are none."""
        self._tail = b""
        while at < len(data) and not self.closed:
            if self._gathering is not None and self._left:
                at = self._payload(self._gathering, data, at, messages)
            else:
                after = self._frame(data, at, messages)
                if after < 0:
                    self._tail = data[at:]
                    break
                at = after
            if self._gathering is None and not self.closed:
                self._begun = False
                return at
        self._begun = True
        return len(data)

    def _frame(self, data: bytes, at: int, messages: list[Data]) -> int:
        """Begin a frame and take what is there of it; gives where that ends, -1 where its head is not whole."""
        if len(data) - at < 2:
            return -1
        first, length, body = data[at], data[at + 1] & 0x7F, at + self._head_bytes
        self._check(first, data[at + 1])
        if length >= 126:
            width = 2 if length == 126 else 8
            if len(data) - at - 2 < width:
                return -1
            length, body = int.from_bytes(data[at + 2 : at + 2 + width], "big"), body + width
            if length < (126 if width == 2 else 65536) or length >> 63:
                raise Violation(PROTOCOL_ERROR, "a length in more bytes than it needs, or negative")
        control = bool(first & CLOSE)
        if len(data) < (body + length if control else body):
            return -1
        key = data[body - 4 : body] if self._masked else b""
        if control:
            payload = data[body : body + length]
            self._control(first & 15, apply_mask(payload, key) if key else payload)
            return body + length
        self._left, self._key, self._final = length, key, first >= FINAL
        gathering = self._gathering = self._gathering or self._begin(first)
        gathering.announce(length)
        return self._payload(gathering, data, body, messages)

    def _check(self, first: int, second: int) -> None:
        opcode = first & 15
        compressed = COMPRESSED if self._inflater is not None and opcode in (TEXT, BINARY) else 0
        if first & RESERVED & ~compressed:
            raise Violation(PROTOCOL_ERROR, "reserved bits")
        if second & MASKED != self._masked:
            raise Violation(PROTOCOL_ERROR, "masking is for clients, and they must")
        if opcode >= CLOSE:
            if opcode > PONG or not first & FINAL or second & 0x7F > CONTROL_BYTES_MAX:
                raise Violation(PROTOCOL_ERROR, "bad control frame")
        elif opcode > BINARY or bool(opcode) is (self._gathering is not None):
            raise Violation(PROTOCOL_ERROR, "unexpected opcode")

    def _begin(self, first: int) -> Gathering:
        inflater = self._inflater if first & COMPRESSED else None
        return Gathering(self._limits, first & 15 == TEXT, inflater)

    def _payload(self, gathering: Gathering, data: bytes, at: int, messages: list[Data]) -> int:
        """What is there of the payload on its way, and the message where it ends with it; gives where that ends."""
        piece = data[at : at + self._left]
        taken = len(piece)
        self._left -= taken
        if self._masked:
            piece = apply_mask(piece, self._key)
            if self._left and taken & 3:
                self._key = self._key[taken & 3 :] + self._key[: taken & 3]
        last = self._final and not self._left
        gathering.add(piece, last)
        if last:
            messages.append(gathering.whole())
            self._gathering = None
        return at + taken

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.out.append(self._encode(PONG, payload))
        elif opcode == PONG:
            self.pong = payload
        else:
            self._closing(payload)

    def _closing(self, payload: bytes) -> None:
        code, reason = NO_CODE, ""
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not may_be_sent(code):
                raise Violation(PROTOCOL_ERROR, "bad close code")
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                raise Violation(BAD_TEXT, "close reason that is not UTF-8") from None
        self.close_received = True
        self._end(code, reason, payload[:2])

    def _fail(self, violation: Violation) -> None:
        self._end(violation.code, violation.reason, violation.code.to_bytes(2, "big") + violation.reason.encode())

    def _end(self, code: int, reason: str, answer: bytes) -> None:
        self.closed, self.close_code, self.close_reason = True, code, reason
        self._begun, self._gathering, self._inflater, self._tail = True, None, None, b""
        if not self.close_sent:
            self.close_sent = True
            self.out.append(self._encode(CLOSE, answer))

    # --- what goes out

    def message(self, data: Data) -> bytes:
        """The frame of a whole message."""
        if self._masked and self._compressor is None:
            return message_frame(data)
        payload, opcode = (data.encode(), TEXT) if isinstance(data, str) else (data, BINARY)
        if self._compressor is not None and len(payload) >= self._compress_min:
            packed = self._compressor.compress(payload)
            if self.in_order or not self._compress_min or len(packed) < len(payload):
                return self._encode(opcode | COMPRESSED, packed)
        return self._encode(opcode, payload)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping. Raises ValueError over 125 bytes."""
        if len(payload) > CONTROL_BYTES_MAX:
            raise ValueError(f"A ping may carry {CONTROL_BYTES_MAX} bytes, not {len(payload)}.")
        return self._encode(PING, payload)

    def close(self, code: int = NORMAL, reason: str = "") -> bytes:
        """The closing frame; empty where one was made already. Raises ValueError for a code that cannot be sent.

        Messages still come in until the peer's closing frame does. A reason is cut to 123 bytes.
        """
        if not may_be_sent(code):
            raise ValueError(f"{code} is no close code that may be sent.")
        if self.close_sent:
            return b""
        self.close_sent = True
        short = reason.encode()[: CONTROL_BYTES_MAX - 2].decode(errors="ignore").encode()
        return self._encode(CLOSE, code.to_bytes(2, "big") + short)

    def _encode(self, kind: int, payload: bytes) -> bytes:
        if self._masked:
            return _head(FINAL | kind, len(payload), 0) + payload
        if not self._keys:
            self._keys = os.urandom(KEYS_BYTES)
        key, self._keys = self._keys[:4], self._keys[4:]
        return _head(FINAL | kind, len(payload), MASKED) + key + (apply_mask(payload, key) if payload else b"")
