"""Just enough of ONNX's protobuf wire format to write a graph. Knows no model.

Field numbers are those of onnx.proto3, which are frozen by its compatibility promise.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

IR_VERSION = 9
OPSET = 20
"""The first with Gelu."""
_FLOAT, _INT64 = 1, 7
_DTYPES = {"float32": _FLOAT, "int64": _INT64}
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_STRING, _ATTRIBUTE_INTS = 1, 2, 3, 7


class OnnxGraph:
    """A graph in the making. Tensors are named by strings."""

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._constants: dict[str, bytes] = {}

    def constant(self, name: str, data: NDArray[Any]) -> str:
        """A weight, or a small tensor that an operator reads."""
        if name not in self._constants:
            dims = b"".join(_number(1, size) for size in data.shape)
            body = dims + _number(2, _DTYPES[data.dtype.name]) + _bytes(8, name.encode())
            self._constants[name] = body + _bytes(9, np.ascontiguousarray(data).tobytes())
        return name

    def op(self, kind: str, inputs: Sequence[str], **attributes: Any) -> str:
        """Add an operator with one output, whose name is returned."""
        out = f"{kind.lower()}{len(self._nodes)}"
        self._nodes.append(self._node(kind, inputs, out, attributes))
        return out

    def name_output(self, tensor: str, name: str) -> None:
        self._nodes.append(self._node("Identity", [tensor], name, {}))

    def to_bytes(
        self, inputs: Sequence[tuple[str, Sequence[str | int]]], output: tuple[str, Sequence[str | int]]
    ) -> bytes:
        """The finished file; inputs are int64, the output is float32, sizes are numbers or names."""
        body = b"".join(_bytes(1, node) for node in self._nodes) + _bytes(2, b"encoder")
        body += b"".join(_bytes(5, constant) for constant in self._constants.values())
        body += b"".join(_bytes(11, _value_info(name, _INT64, shape)) for name, shape in inputs)
        body += _bytes(12, _value_info(output[0], _FLOAT, output[1]))
        opset = _bytes(8, _number(2, OPSET))
        return _number(1, IR_VERSION) + _bytes(2, b"embeddings_engine") + _bytes(7, body) + opset

    @staticmethod
    def _node(kind: str, inputs: Sequence[str], out: str, attributes: dict[str, Any]) -> bytes:
        body = (
            b"".join(_bytes(1, name.encode()) for name in inputs) + _bytes(2, out.encode()) + _bytes(4, kind.encode())
        )
        return body + b"".join(_bytes(5, _attribute(name, value)) for name, value in attributes.items())


def _attribute(name: str, value: Any) -> bytes:
    body = _bytes(1, name.encode())
    if isinstance(value, float):
        return body + _varint(2 << 3 | 5) + np.float32(value).tobytes() + _number(20, _ATTRIBUTE_FLOAT)
    if isinstance(value, int):
        return body + _number(3, value) + _number(20, _ATTRIBUTE_INT)
    if isinstance(value, str):
        return body + _bytes(4, value.encode()) + _number(20, _ATTRIBUTE_STRING)
    return body + b"".join(_number(8, number) for number in value) + _number(20, _ATTRIBUTE_INTS)


def _value_info(name: str, dtype: int, shape: Sequence[str | int]) -> bytes:
    dims = b"".join(
        _bytes(1, _number(1, size) if isinstance(size, int) else _bytes(2, size.encode())) for size in shape
    )
    return _bytes(1, name.encode()) + _bytes(2, _bytes(1, _number(1, dtype) + _bytes(2, dims)))


def _number(field: int, value: int) -> bytes:
    return _varint(field << 3) + _varint(value & (1 << 64) - 1)


def _bytes(field: int, data: bytes) -> bytes:
    return _varint(field << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)
