"""What the stages of a pipeline say to each other, and how it is put on a socket. Decides nothing.

A message is the length of its head and of its body, the head (msgpack), and the body: the numbers of its tensors, one
after the other, as they lie in memory. Both ends run on one machine.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reef.ports import TensorSpec

HEAD_BYTES_MAX = 1 << 20
BODY_BYTES_MAX = 256 << 20
"""Tensors of one frame."""
BUFFER_BYTES = 1 << 20
_LENGTHS = struct.Struct("<IQ")

Tensors = dict[str, NDArray[Any]]


class Broken(Exception):
    """The other end is gone, or says what cannot be understood."""


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello"):
    """First message on a connection: the stage before yours is here, and wants to work with you."""

    session: str
    """A new one each time the first stage begins."""
    model: str
    peers: tuple[str, ...]
    index: int
    """Place of the stage that is spoken to; as many as there are peers: results for the first stage."""
    wait_s: float
    """How long the first stage is willing to wait for all others."""


class Ready(msgspec.Struct, frozen=True, kw_only=True, tag="ready"):
    """Answer to Hello once every later stage is ready, too."""

    wants: tuple[TensorSpec, ...]
    """What this stage and the later ones have to be given."""
    outputs: tuple[TensorSpec, ...]
    """What the last stage makes."""


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag="refused"):
    """It does not work, here or further on; in the middle of the work: it has ended."""

    message: str


class TensorHead(msgspec.Struct, frozen=True):
    """One tensor of a body."""

    name: str
    shape: tuple[int, ...]
    dtype: str


class Frame(msgspec.Struct, frozen=True, kw_only=True, tag="frame"):
    """One input on its way."""

    number: int
    tensors: tuple[TensorHead, ...] = ()
    error: str = ""
    """Why this input will have no result; it travels on in place of its tensors."""


Head = Hello | Ready | Refused | Frame
_decoder: msgspec.msgpack.Decoder[Head] = msgspec.msgpack.Decoder(Head)


class Link:
    """A connection to another stage. One thread sends, one receives; any may close it."""

    def __init__(self, connection: socket.socket) -> None:
        self._socket = connection
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, BUFFER_BYTES)

    def send(self, head: Head) -> None:
        """Send a message without tensors. Raises Broken."""
        self._send(head, [])

    def send_frame(self, number: int, tensors: Tensors) -> None:
        """Send an input's tensors. Raises Broken."""
        arrays = {name: np.ascontiguousarray(array) for name, array in tensors.items()}
        heads = tuple(TensorHead(name, array.shape, array.dtype.name) for name, array in arrays.items())
        bodies = [array.reshape(-1).view(np.uint8).data for array in arrays.values()]
        self._send(Frame(number=number, tensors=heads), bodies)

    def receive(self, timeout_s: float | None = None) -> tuple[Head, Tensors]:
        """The next message. Raises Broken, where it does not come in time too."""
        try:
            self._socket.settimeout(timeout_s)
            head_bytes, body_bytes = _LENGTHS.unpack(self._read(_LENGTHS.size))
            if head_bytes > HEAD_BYTES_MAX or body_bytes > BODY_BYTES_MAX:
                raise Broken(f"a message of {head_bytes} + {body_bytes} bytes is longer than allowed")
            head = _decoder.decode(self._read(head_bytes))
            body = self._read(body_bytes)
            return head, _tensors(head, body) if isinstance(head, Frame) else {}
        except TimeoutError:
            raise Broken("it did not answer in time") from None
        except (OSError, msgspec.DecodeError, ValueError, TypeError) as error:
            raise Broken(str(error) or "the connection was closed") from error

    def close(self) -> None:
        """Wake whoever waits on it, and let it go."""
        with contextlib.suppress(OSError):  # the other end was faster
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _send(self, head: Head, bodies: list[memoryview]) -> None:
        encoded = msgspec.msgpack.encode(head)
        length = sum(len(body) for body in bodies)
        if length > BODY_BYTES_MAX:
            raise Broken(f"{length} bytes of tensors are more than one frame may have ({BODY_BYTES_MAX})")
        try:
            self._socket.settimeout(None)
            self._socket.sendall(_LENGTHS.pack(len(encoded), length) + encoded)
            for body in bodies:
                self._socket.sendall(body)
        except OSError as error:
            raise Broken(str(error)) from error

    def _read(self, length: int) -> bytearray:
        data = bytearray(length)
        view, at = memoryview(data), 0
        while at < length:
            got = self._socket.recv_into(view[at:])
            if not got:
                raise Broken("the connection was closed")
            at += got
        return data


def _tensors(frame: Frame, body: bytearray) -> Tensors:
    found: Tensors = {}
    at = 0
    for head in frame.tensors:
        kind = np.dtype(head.dtype)
        count = int(np.prod(head.shape, dtype=np.int64))
        found[head.name] = np.frombuffer(body, kind, count, at).reshape(head.shape)
        at += count * kind.itemsize
    return found


class Passing(msgspec.Struct, frozen=True):
    """What one stage hands to the next: some it makes, some it was given for a later one."""

    wants: tuple[TensorSpec, ...]
    names: tuple[str, ...]


def passing(inputs: tuple[TensorSpec, ...], outputs: tuple[TensorSpec, ...], onward: tuple[TensorSpec, ...]) -> Passing:
    """How a stage with these tensors serves what is wanted further on. Raises Broken where a tensor does not fit."""
    made = {spec.name: spec for spec in outputs}
    given = {spec.name: spec for spec in inputs}
    for spec in onward:
        if spec.name in made:
            _check_fits(made[spec.name], spec)
        else:
            _check_fits(given.setdefault(spec.name, spec), spec)
    return Passing(tuple(given.values()), tuple(spec.name for spec in onward))


def _check_fits(given: TensorSpec, wanted: TensorSpec) -> None:
    if (given.shape, given.dtype) != (wanted.shape, wanted.dtype):
        raise Broken(
            f"segments do not fit: tensor {given.name!r} is made as {given.dtype} {list(given.shape)} and read as "
            f"{wanted.dtype} {list(wanted.shape)}; they are of different models or cuts"
        )
