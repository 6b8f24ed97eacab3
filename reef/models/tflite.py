"""Reading what a .tflite file says about itself: its tensors' types and whether it is whole. Never reads weights.

Plain Python over the FlatBuffers layout, as gguf.py is for its format: a web process checks a model without an engine.
"""

from __future__ import annotations

import mmap
import re
import struct
from pathlib import Path

import msgspec

from reef.models.errors import Damaged, ModelError

IDENTIFIER = b"TFL3"
"""Stands at byte 4 of every such file."""
EDGE_TPU_OPERATOR = "edgetpu-custom-op"
COMPILED_SUFFIX = "_edgetpu"
"""Ends the name of a file that edgetpu_compiler made."""
COMPILED_QUANTISATION = "int8, Edge TPU"
SEGMENT = re.compile(r"_segment_(?P<number>\d+)_of_(?P<count>\d+)(_edgetpu)?$")
"""Ends the name of a file that is a part of a pipeline."""
ITEMS_MAX = 1 << 20
"""Longest vector believed: a broken length must not eat the memory."""

_TYPES = {0: "float32", 1: "float16", 2: "int32", 3: "uint8", 4: "int64", 7: "int16", 9: "int8", 17: "int4"}
_BYTES = {"float16": 2, "uint8": 1, "int64": 8, "int16": 2, "int8": 1, "int4": 0.5}
_SMALL = ("uint8", "int8", "int4")
# numbers of the fields in the schema's tables
_MODEL_CODES, _MODEL_GRAPHS, _MODEL_BUFFERS = 1, 2, 4
_GRAPH_TENSORS, _TENSOR_TYPE, _TENSOR_BUFFER = 0, 1, 2
_BUFFER_DATA, _BUFFER_OFFSET, _BUFFER_SIZE = 0, 1, 2
_CODE_CUSTOM = 1


class TfliteHead(msgspec.Struct, frozen=True):
    """What a model file says about itself."""

    tensors: int
    weight_types: dict[str, int]
    """Bytes of weights by type."""
    value_types: frozenset[str]
    """Types of what is computed."""
    operators: frozenset[str]
    """Names of custom operators."""

    @property
    def compiled(self) -> bool:
        """Whether it is for Edge TPUs: then the compiler's operator holds most weights, and the types here do not."""
        return EDGE_TPU_OPERATOR in self.operators

    @property
    def parameters(self) -> int:
        """Numbers among the weights that can be seen."""
        return sum(int(size / _BYTES.get(name, 4)) for name, size in self.weight_types.items())

    @property
    def quantisation(self) -> str:
        """In a few words: what the weights are, and whether it is computed in integers too."""
        if self.compiled:
            return COMPILED_QUANTISATION
        if not self.weight_types:
            return "none"
        weights = max(self.weight_types, key=lambda name: self.weight_types[name])
        if weights in _SMALL:
            whole = self.value_types & {"uint8", "int8", "int16"}
            return weights if whole else f"dynamic {weights}"
        return weights


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data = data

    def read(self, layout: str, at: int) -> int:
        if at < 0:
            raise ValueError(f"a place of {at}")
        return int(struct.unpack_from("<" + layout, self.data, at)[0])

    def field(self, table: int, number: int) -> int:
        """Where a field of a table is; 0 where it has its default."""
        vtable = table - self.read("i", table)
        place = 4 + 2 * number
        if place >= self.read("H", vtable):
            return 0
        offset = self.read("H", vtable + place)
        return table + offset if offset else 0

    def follow(self, at: int) -> int:
        return at + self.read("I", at)

    def vector(self, table: int, number: int, item_bytes: int) -> tuple[int, int]:
        """First item and length of a vector field; it must end inside the file."""
        at = self.field(table, number)
        if not at:
            return 0, 0
        start = self.follow(at)
        length = self.read("I", start)
        if start + 4 + length * item_bytes > len(self.data):
            raise ValueError(f"{length} items beyond its end")
        return start + 4, length

    def tables(self, table: int, number: int) -> list[int]:
        first, length = self.vector(table, number, 4)
        if length > ITEMS_MAX:
            raise ValueError(f"a length of {length}")
        return [self.follow(first + 4 * place) for place in range(length)]

    def text(self, table: int, number: int) -> str:
        first, length = self.vector(table, number, 1)
        return self.data[first : first + length].decode("utf-8", "replace")


def asked_as(file_name: str) -> str:
    """What the file of that name (without .tflite) is asked for by, alone or as a part of a pipeline."""
    return SEGMENT.sub("", file_name).removesuffix(COMPILED_SUFFIX)


def read_tflite(path: Path) -> TfliteHead:
    """Read the tables and check that every weight lies inside the file.

    Raises ModelError for a file that is no model, is cut short or damaged, or cannot be read.
    """
    try:
        with path.open("rb") as file:
            if file.read(8)[4:] != IDENTIFIER:
                raise ModelError(f"{path} is not a model in TFLite format. Give a .tflite file.")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _parse(_Reader(data))
    except OSError as error:
        raise ModelError(f"{path} cannot be read: {error.strerror}.") from error
    except (struct.error, ValueError, IndexError) as error:
        raise Damaged(path, "is damaged or cut short") from error


def _parse(reader: _Reader) -> TfliteHead:
    model = reader.follow(0)
    sizes = [_buffer_bytes(reader, buffer) for buffer in reader.tables(model, _MODEL_BUFFERS)]
    weights: dict[str, int] = {}
    values: set[str] = set()
    seen: set[int] = set()  # several signatures may share a buffer
    tensors = 0
    for graph in reader.tables(model, _MODEL_GRAPHS):
        for tensor in reader.tables(graph, _GRAPH_TENSORS):
            tensors += 1
            at = reader.field(tensor, _TENSOR_TYPE)
            kind = reader.read("b", at) if at else 0
            name = _TYPES.get(kind, f"type {kind}")
            at = reader.field(tensor, _TENSOR_BUFFER)
            buffer = reader.read("I", at) if at else 0
            if not buffer or not sizes[buffer]:  # the first one stands for "computed"
                values.add(name)
            elif buffer not in seen:
                seen.add(buffer)
                weights[name] = weights.get(name, 0) + sizes[buffer]
    if not tensors:
        raise ValueError("it has no tensors")
    codes = frozenset(filter(None, (reader.text(code, _CODE_CUSTOM) for code in reader.tables(model, _MODEL_CODES))))
    return TfliteHead(tensors, weights, frozenset(values), codes)


def _buffer_bytes(reader: _Reader, buffer: int) -> int:
    _, length = reader.vector(buffer, _BUFFER_DATA, 1)
    at = reader.field(buffer, _BUFFER_OFFSET)
    offset = reader.read("Q", at) if at else 0
    if offset <= 1:  # 0 and 1 mean: the weights stand in the table itself
        return length
    at = reader.field(buffer, _BUFFER_SIZE)
    size = reader.read("Q", at) if at else 0
    if offset + size > len(reader.data):
        raise ValueError(f"{size} bytes beyond its end")
    return size
