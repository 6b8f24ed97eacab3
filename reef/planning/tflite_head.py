"""Reading the head of a .tflite file: how many parameters it has and whether the Edge TPU compiler made it.

Plain Python on purpose: no interpreter, no numpy. A .tflite file is a FlatBuffer (flatbuffers.dev/internals): a table
is found through offsets, and field N of it through its table of fields. Field numbers are those of TensorFlow Lite's
schema.fbs. Never touches weights.
"""

from __future__ import annotations

import math
import mmap
import struct
from collections.abc import Iterator
from pathlib import Path

import msgspec

from reef.models import ModelError

IDENTIFIER = b"TFL3"
TENSORS_MAX = 1_000_000
"""A broken length must not keep us busy."""
EDGETPU_OPERATOR = "edgetpu-custom-op"

_MODEL_OPERATORS, _MODEL_SUBGRAPHS, _MODEL_BUFFERS = 1, 2, 4
_OPERATOR_CUSTOM = 1
_SUBGRAPH_TENSORS = 0
_TENSOR_SHAPE, _TENSOR_BUFFER = 0, 2
_BUFFER_DATA, _BUFFER_SIZE = 0, 2


class TfliteHead(msgspec.Struct, frozen=True):
    """What a model file says about itself."""

    parameters: int
    """Elements of all constant tensors; of a compiled file only those that stayed on the CPU."""
    compiled: bool


class _Buffer:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data

    def number(self, layout: str, at: int) -> int:
        return int(struct.unpack_from("<" + layout, self.data, at)[0])

    def root(self) -> int:
        return self.number("I", 0)

    def field(self, table: int, number: int) -> int:
        """Where field `number` of a table is; 0 where it is left out."""
        fields = table - self.number("i", table)
        place = 4 + 2 * number
        if place >= self.number("H", fields):
            return 0
        offset = self.number("H", fields + place)
        return table + offset if offset else 0

    def vector(self, table: int, number: int) -> tuple[int, int]:
        """First element and length of a field that is a vector."""
        at = self.field(table, number)
        if not at:
            return 0, 0
        start = at + self.number("I", at)
        length = self.number("I", start)
        if start + length > len(self.data):
            raise ValueError(f"a length of {length}")
        return start + 4, length

    def tables(self, table: int, number: int) -> Iterator[int]:
        """The tables of a field that is a vector of them."""
        start, length = self.vector(table, number)
        if length > TENSORS_MAX:
            raise ValueError(f"a list of {length}")
        for place in range(start, start + 4 * length, 4):
            yield place + self.number("I", place)

    def text(self, table: int, number: int) -> str:
        start, length = self.vector(table, number)
        return self.data[start : start + length].decode("utf-8", "replace")


def read_tflite_head(path: Path) -> TfliteHead:
    """Raises ModelError for a file that is no model, is cut short or cannot be read."""
    try:
        with path.open("rb") as file:
            if file.read(8)[4:] != IDENTIFIER:
                raise ModelError(f"{path} is not a model in TensorFlow Lite format. Give a .tflite file.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Buffer(data))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError, IndexError) as error:
        raise ModelError(f"{path} is damaged or cut short ({error}). Fetch it again.") from error


def _parse(file: _Buffer) -> TfliteHead:
    model = file.root()
    compiled = any(
        file.text(operator, _OPERATOR_CUSTOM) == EDGETPU_OPERATOR for operator in file.tables(model, _MODEL_OPERATORS)
    )
    filled = [_has_data(file, buffer) for buffer in file.tables(model, _MODEL_BUFFERS)]
    elements: dict[int, int] = {}  # several signatures may share a buffer
    for subgraph in file.tables(model, _MODEL_SUBGRAPHS):
        for tensor in file.tables(subgraph, _SUBGRAPH_TENSORS):
            at = file.field(tensor, _TENSOR_BUFFER)
            buffer = file.number("I", at) if at else 0
            if filled[buffer]:
                start, rank = file.vector(tensor, _TENSOR_SHAPE)
                elements[buffer] = math.prod(file.number("i", start + 4 * axis) for axis in range(rank))
    return TfliteHead(sum(elements.values()), compiled)


def _has_data(file: _Buffer, buffer: int) -> bool:
    """Whether there is something in a buffer: inside the FlatBuffer, or behind it in large files."""
    outside = file.field(buffer, _BUFFER_SIZE)
    return file.vector(buffer, _BUFFER_DATA)[1] > 0 or (outside > 0 and file.number("Q", outside) > 1)
