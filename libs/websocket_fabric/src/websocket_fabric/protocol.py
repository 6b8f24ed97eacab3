"""RFC 6455 without I/O: bytes in, messages out, and the frames that answer. Never touches a socket or a clock."""

from __future__ import annotations

import codecs
import os
from typing import Any, Literal

from websockets.speedups import apply_mask

from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data

NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, NO_CODE, ABNORMAL = 1000, 1001, 1002, 1003, 1005, 1006
BAD_TEXT, POLICY, TOO_BIG, INTERNAL_ERROR, TRY_AGAIN_LATER = 1007, 1008, 1009, 1011, 1013
SENDABLE = frozenset([1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014])
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10
CONTROL_BYTES_MAX = 125

_utf8 = codecs.getincrementaldecoder("utf-8")


class Violation(Exception):
    """The peer broke the protocol; `code` is the close code that says how."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code, self.reason = code, reason


class Protocol:
    """One side of an open connection."""

    __slots__ = (
        "_fragments",
        "_limits",
        "_opcode",
        "_server",
        "_size",
        "_tail",
        "_text",
        "close_code",
        "close_reason",
        "close_sent",
        "closed",
        "out",
    )

    def __init__(self, role: Literal["server", "client"] = "server", limits: Limits | None = None) -> None:
        self._server = role == "server"
        self._limits = limits or Limits()
        self._tail = b""
        self._opcode = 0
        self._fragments: list[Any] = []
        self._size = 0
        self._text: Any = None
        self.out: list[bytes] = []
        """Frames that answer what came (pongs, the closing frame); the host writes and clears them."""
        self.closed = False
        """Nothing more is read: the peer closed, or broke the protocol."""
        self.close_code = ABNORMAL
        """Why it ended: the peer's code (NO_CODE where it gave none), or the one it was given."""
        self.close_reason = ""
        self.close_sent = False

    # --- what comes in

    def feed(self, data: bytes) -> list[Data]:
        """Complete messages in these bytes, in order. Answers are left in `out`; a violation closes, never raises."""
        messages: list[Data] = []
        if self.closed:
            return messages
        buffer = self._tail + data if self._tail else data
        at, end = 0, len(buffer)
        try:
            while end - at >= 2 and not self.closed:
                after = self._frame(buffer, at, end, messages)
                if after < 0:
                    break
                at = after
        except Violation as violation:
            self._fail(violation)
        self._tail = b"" if self.closed else bytes(buffer[at:])
        return messages

    def _frame(self, buffer: bytes, at: int, end: int, messages: list[Data]) -> int:
        """Take one frame; gives where the next begins, or -1 where this one is not whole yet."""
        first, second = buffer[at], buffer[at + 1]
        opcode, length, at = first & 15, second & 0x7F, at + 2
        self._check(first, opcode, second)
        if length >= 126:
            width = 2 if length == 126 else 8
            if end - at < width:
                return -1
            length = int.from_bytes(buffer[at : at + width], "big")
            at += width
            if length >> 63:
                raise Violation(PROTOCOL_ERROR, "length with its highest bit set")
        if opcode < 8 and self._size + length > self._limits.message_bytes_max:
            raise Violation(TOO_BIG, f"a message may have {self._limits.message_bytes_max} bytes")
        body = at + 4 if self._server else at
        after = body + length
        if after > end:
            return -1
        payload = buffer[body:after]
        if self._server and length:
            payload = apply_mask(payload, buffer[at:body])
        if opcode < 8:
            self._data(opcode, bool(first & 0x80), payload, messages)
        else:
            self._control(opcode, payload)
        return after

    def _check(self, first: int, opcode: int, second: int) -> None:
        if first & 0x70:
            raise Violation(PROTOCOL_ERROR, "reserved bits")
        if bool(second & 0x80) is not self._server:
            raise Violation(PROTOCOL_ERROR, "masking is for clients, and they must")
        if opcode >= 8:
            if opcode > PONG or not first & 0x80 or second & 0x7F > CONTROL_BYTES_MAX:
                raise Violation(PROTOCOL_ERROR, "bad control frame")
        elif opcode > BINARY or bool(opcode) is bool(self._opcode):
            raise Violation(PROTOCOL_ERROR, "unexpected opcode")

    def _data(self, opcode: int, final: bool, payload: bytes, messages: list[Data]) -> None:
        try:
            if opcode and final:
                messages.append(payload.decode() if opcode == TEXT else payload)
                return
            if opcode:
                self._opcode, self._text = opcode, _utf8() if opcode == TEXT else None
            self._size += len(payload)
            self._fragments.append(self._text.decode(payload, final) if self._text else payload)
        except UnicodeDecodeError:
            raise Violation(BAD_TEXT, "text that is not UTF-8") from None
        if final:
            messages.append("".join(self._fragments) if self._text else b"".join(self._fragments))
            self._opcode, self._size, self._fragments, self._text = 0, 0, [], None

    def _control(self, opcode: int, payload: bytes) -> None:
        if opcode == PING:
            self.out.append(self._encode(PONG, payload))
        elif opcode == CLOSE:
            self._closing(payload)

    def _closing(self, payload: bytes) -> None:
        code, reason = NO_CODE, ""
        if payload:
            code = int.from_bytes(payload[:2], "big")
            if len(payload) == 1 or not (code in SENDABLE or 3000 <= code <= 4999):
                raise Violation(PROTOCOL_ERROR, "bad close code")
            try:
                reason = payload[2:].decode()
            except UnicodeDecodeError:
                raise Violation(BAD_TEXT, "close reason that is not UTF-8") from None
        self.closed, self.close_code, self.close_reason = True, code, reason
        if not self.close_sent:
            self.close_sent = True
            self.out.append(self._encode(CLOSE, payload[:2]))

    def _fail(self, violation: Violation) -> None:
        self.closed, self.close_code, self.close_reason = True, violation.code, violation.reason
        if not self.close_sent:
            self.close_sent = True
            self.out.append(self._encode(CLOSE, violation.code.to_bytes(2, "big") + violation.reason.encode()))

    # --- what goes out

    def message(self, data: Data) -> bytes:
        """The frame of a whole message."""
        return self._encode(TEXT, data.encode()) if isinstance(data, str) else self._encode(BINARY, data)

    def ping(self, payload: bytes = b"") -> bytes:
        """A ping. Raises ValueError over 125 bytes."""
        if len(payload) > CONTROL_BYTES_MAX:
            raise ValueError(f"A ping may carry {CONTROL_BYTES_MAX} bytes, not {len(payload)}.")
        return self._encode(PING, payload)

    def close(self, code: int = NORMAL, reason: str = "") -> bytes:
        """The closing frame; empty where one was sent already. Raises ValueError for a code that cannot be sent."""
        if not (code in SENDABLE or 3000 <= code <= 4999):
            raise ValueError(f"{code} is no close code that may be sent.")
        if self.close_sent:
            return b""
        self.close_sent = True
        short = reason.encode()[: CONTROL_BYTES_MAX - 2].decode(errors="ignore").encode()
        return self._encode(CLOSE, code.to_bytes(2, "big") + short)

    def _encode(self, opcode: int, payload: bytes) -> bytes:
        length, mask = len(payload), 0 if self._server else 0x80
        if length < 126:
            head = bytes((0x80 | opcode, mask | length))
        elif length < 65536:
            head = bytes((0x80 | opcode, mask | 126)) + length.to_bytes(2, "big")
        else:
            head = bytes((0x80 | opcode, mask | 127)) + length.to_bytes(8, "big")
        if self._server:
            return head + payload
        key = os.urandom(4)
        return head + key + (apply_mask(payload, key) if payload else b"")
