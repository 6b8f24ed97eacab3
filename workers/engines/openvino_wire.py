"""What the OpenVINO engine (openvino.py) and its device process (openvino_device.py) say to each other. Shapes only.

Frames on a socket pair: four bytes of length, then a MessagePack array that begins with the message's name.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Generic, Literal, TypeVar

import msgspec

from reef.ports import ChatMessage

FRAME_BYTES_MAX = 64 << 20
"""A frame that says it is longer is a broken peer's."""
FIRST_HANG_S = 600.0
"""The first step repacks the weights: a large model takes minutes for it on a busy machine, and does not hang."""
READ_BYTES = 256 * 1024
_LENGTH = struct.Struct("<I")

Ending = Literal["stop", "length", "cancelled", "failed", "refused"]


class Open(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Load what is prepared in `folder`."""

    folder: str
    blob: bool
    threads: int
    kv_blocks: int
    streams: int
    chunk_tokens: int
    end_ids: Sequence[int]


class Generate(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """One generation (reef.ports.ChatRequest). `id` is the caller's."""

    id: int
    messages: Sequence[ChatMessage]
    context_tokens: int
    tokens_max: int
    temperature: float
    top_p: float
    repetition_penalty: float
    seed: int | None
    schema: Mapping[str, Any] | None


class Cancel(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Nobody wants the rest of this generation; its `End` still comes."""

    id: int


class Encode(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """Which tokens are these messages?"""

    id: int
    messages: Sequence[ChatMessage]


class Opened(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The model is loaded, or `error` says why not; another `Open` may follow then."""

    error: str = ""


class Encoded(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The answer to `Encode`."""

    id: int
    ids: Sequence[int]
    error: str = ""


class End(msgspec.Struct, frozen=True, array_like=True):
    """A generation has ended; `error` belongs to `failed` (try again) and `refused` (never try again)."""

    id: int
    reason: Ending
    prompt_tokens: int = 0
    error: str = ""


class Step(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """What the last steps of the pipeline brought: the new tokens of each generation, then the ends."""

    tokens: Sequence[tuple[int, Sequence[int]]]
    ends: Sequence[End]


class Dying(msgspec.Struct, frozen=True, tag=True, array_like=True):
    """The device process ends after this."""

    reason: str


Request = Open | Generate | Cancel | Encode
Answer = Opened | Encoded | Step | Dying
M = TypeVar("M")


class Wire(Generic[M]):
    """One end of the socket pair; receives messages of type M."""

    def __init__(self, sock: socket.socket, receives: type[M] | Any) -> None:
        self.sock = sock
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder: msgspec.msgpack.Decoder[M] = msgspec.msgpack.Decoder(receives)
        self._buffer = bytearray()

    def send(self, message: msgspec.Struct) -> None:
        """Send it whole. Raises OSError when the peer is gone."""
        body = self._encoder.encode(message)
        self.sock.sendall(_LENGTH.pack(len(body)) + body)

    def receive(self, *, wait: bool = True) -> Iterator[M]:
        """The messages that have come; with `wait` at least one read is waited for. Raises EOFError, OSError."""
        try:
            data = self.sock.recv(READ_BYTES, 0 if wait else socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        if not data:
            raise EOFError
        self._buffer += data
        while len(self._buffer) >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._buffer)
            if length > FRAME_BYTES_MAX:
                raise OSError(f"a frame of {length} bytes")
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                return
            message = self._decoder.decode(memoryview(self._buffer)[_LENGTH.size : end])
            del self._buffer[:end]
            yield message
