"""Writing a TFLite flatbuffer: tensors, constants shared between subgraphs, operators, signatures. Knows no model.

The schema's Python form ships with ai-edge-litert; this module is the only one that touches it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

BUFFER_ALIGN_BYTES = 16
"""Runtimes map the file and read vectors of floats in place."""
FILE_BYTES_MAX = (1 << 31) - 1
"""Offsets of a flatbuffer are 31 bits."""
_ODD_TABLES = {
    "MEAN": "ReducerOptions",
    "SUM": "ReducerOptions",
    "MAXIMUM": "MaximumMinimumOptions",
    "EMBEDDING_LOOKUP": "",
    "RSQRT": "",
}
_TYPES = {"float32": schema.TensorType.FLOAT32, "int32": schema.TensorType.INT32, "int8": schema.TensorType.INT8}


class _AlignedBuffer(schema.BufferT):  # type: ignore[misc]
    """A buffer whose data starts on a 16-byte boundary, which the generated `Pack` does not care for."""

    def Pack(self, builder: flatbuffers.Builder) -> int:  # noqa: N802  (overrides the generated name)
        data: NDArray[np.uint8] = self.data
        builder.StartVector(1, data.size, BUFFER_ALIGN_BYTES)
        builder.head -= data.size
        builder.Bytes[builder.head : builder.head + data.size] = data.tobytes()
        at = builder.EndVector()
        schema.BufferStart(builder)
        schema.BufferAddData(builder, at)
        return int(schema.BufferEnd(builder))


class Model:
    """A file in the making."""

    def __init__(self, description: str) -> None:
        self._model = schema.ModelT()
        self._model.version = 3
        self._model.description = description
        self._model.buffers = [schema.BufferT()]
        self._model.operatorCodes = []
        self._model.subgraphs = []
        self._model.signatureDefs = []
        self._buffers: dict[str, int] = {}
        self._codes: dict[tuple[int, int], int] = {}

    def buffer(self, name: str, data: NDArray[Any]) -> int:
        """The index of a constant's bytes; one name is stored once however many subgraphs use it."""
        if name not in self._buffers:
            self._buffers[name] = len(self._model.buffers)
            self._model.buffers.append(_AlignedBuffer(data=np.ascontiguousarray(data).reshape(-1).view(np.uint8)))
        return self._buffers[name]

    def code(self, builtin: int, version: int) -> int:
        """The index of an operator kind."""
        if (builtin, version) not in self._codes:
            self._codes[builtin, version] = len(self._model.operatorCodes)
            entry = schema.OperatorCodeT()
            entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = builtin, min(builtin, 127), version
            self._model.operatorCodes.append(entry)
        return self._codes[builtin, version]

    def graph(self, name: str) -> Graph:
        """Begin a subgraph that is callable as the signature `name`."""
        subgraph = schema.SubGraphT()
        subgraph.name, subgraph.tensors, subgraph.operators = name, [], []
        subgraph.inputs, subgraph.outputs = [], []
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.subgraphIndex = name, len(self._model.subgraphs)
        signature.inputs, signature.outputs = [], []
        self._model.subgraphs.append(subgraph)
        self._model.signatureDefs.append(signature)
        return Graph(self, subgraph, signature)

    def to_bytes(self) -> bytes:
        """The finished file."""
        held = sum(item.data.size for item in self._model.buffers[1:])
        if held > FILE_BYTES_MAX:
            raise ValueError(f"{held} bytes of weights do not fit a flatbuffer; use a smaller model")
        builder = flatbuffers.Builder(held + (4 << 20))
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class Graph:
    """One subgraph in the making. Tensors are named by their index; methods that make one return it."""

    def __init__(self, model: Model, subgraph: Any, signature: Any) -> None:
        self._model = model
        self._graph = subgraph
        self._signature = signature
        self._constants: dict[str, int] = {}
        self._shapes: list[tuple[int, ...]] = []

    def shape(self, tensor: int) -> tuple[int, ...]:
        return self._shapes[tensor]

    def input(self, name: str, shape: Sequence[int]) -> int:
        """An int32 input of the signature."""
        index = self._tensor(name, shape, "int32", 0)
        self._graph.inputs.append(index)
        self._signature.inputs.append(_named(name, index))
        return index

    def output(self, name: str, tensor: int) -> None:
        self._graph.outputs.append(tensor)
        self._signature.outputs.append(_named(name, tensor))

    def constant(self, name: str, data: NDArray[Any], scales: NDArray[np.float32] | None = None) -> int:
        """A weight; `scales` makes it quantised per row of its first dimension."""
        if name not in self._constants:
            buffer = self._model.buffer(name, data)
            index = self._tensor(name, data.shape, data.dtype.name, buffer)
            if scales is not None:
                quantised = schema.QuantizationParametersT()
                quantised.scale, quantised.zeroPoint = scales, np.zeros(scales.size, np.int64)
                quantised.quantizedDimension = 0
                self._graph.tensors[index].quantization = quantised
            self._constants[name] = index
        return self._constants[name]

    def op(self, kind: str, inputs: Sequence[int], shape: Sequence[int], *, version: int = 1, **options: Any) -> int:
        """Add an operator with one float32 output of this shape."""
        return self.op_many(kind, inputs, [shape], version=version, **options)[0]

    def op_many(
        self,
        kind: str,
        inputs: Sequence[int],
        shapes: Sequence[Sequence[int]],
        *,
        version: int = 1,
        dtype: str = "float32",
        **options: Any,
    ) -> list[int]:
        """Add an operator; `options` are the fields of its options table in the schema."""
        operator = schema.OperatorT()
        builtin = getattr(schema.BuiltinOperator, kind)
        operator.opcodeIndex = self._model.code(builtin, version)
        operator.inputs = list(inputs)
        operator.outputs = [self._tensor(f"t{len(self._shapes)}", shape, dtype, 0) for shape in shapes]
        table = _options_table(kind)
        if table:
            operator.builtinOptionsType = getattr(schema.BuiltinOptions, table)
            operator.builtinOptions = getattr(schema, f"{table}T")()
            for field, value in options.items():
                setattr(operator.builtinOptions, field, value)
        self._graph.operators.append(operator)
        return list(operator.outputs)

    def _tensor(self, name: str, shape: Sequence[int], dtype: str, buffer: int) -> int:
        tensor = schema.TensorT()
        tensor.name, tensor.shape, tensor.buffer = name, list(shape), buffer
        tensor.type = _TYPES[dtype]
        self._graph.tensors.append(tensor)
        self._shapes.append(tuple(shape))
        return len(self._shapes) - 1


def _named(name: str, tensor: int) -> Any:
    entry = schema.TensorMapT()
    entry.name, entry.tensorIndex = name, tensor
    return entry


def _options_table(kind: str) -> str:
    """`FULLY_CONNECTED` has its options in `FullyConnectedOptions`; a few operators share or lack a table."""
    table = _ODD_TABLES.get(kind)
    if table is not None:
        return table
    words = {"BATCH": "Batch", "MATMUL": "MatMul"}
    return "".join(words.get(word, word.capitalize()) for word in kind.split("_")) + "Options"
