"""Small TFLite files for tests and benches: a model for CPU cores, the same cut into segments, one for an Edge TPU.

The CPU model is a chain of dense layers with a shortcut from the first to the last, so that a tensor has to pass a
segment that does not use it. The compiled one is a single "edgetpu-custom-op", as edgetpu_compiler leaves it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

WIDTH = 16
LAYERS = 4


class Graph:
    """A model in the making, of one subgraph."""

    def __init__(self) -> None:
        self._model = schema.ModelT()
        self._model.version, self._model.description = 3, "made by a test"
        self._model.buffers, self._model.operatorCodes = [schema.BufferT()], []
        self._graph = schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._graph.inputs, self._graph.outputs = [], []
        self._model.subgraphs = [self._graph]
        self._names: dict[str, int] = {}

    def tensor(
        self,
        name: str,
        shape: Sequence[int],
        dtype: str = "float32",
        *,
        data: NDArray[Any] | None = None,
        scale: float = 0.0,
        zero_point: int = 0,
    ) -> str:
        """Declare a tensor; `data` makes it a constant."""
        made = schema.TensorT()
        made.name, made.shape, made.buffer = name, list(shape), 0
        made.type = {"float32": schema.TensorType.FLOAT32, "uint8": schema.TensorType.UINT8}[dtype]
        if data is not None:
            buffer = schema.BufferT()
            buffer.data = np.ascontiguousarray(data).reshape(-1).view(np.uint8)
            made.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        if scale:
            made.quantization = schema.QuantizationParametersT()
            made.quantization.scale, made.quantization.zeroPoint = np.array([scale], np.float32), np.array([zero_point])
        self._names[name] = len(self._graph.tensors)
        self._graph.tensors.append(made)
        return name

    def operator(
        self, code: int, inputs: Sequence[str], outputs: Sequence[str], options: Any, *, kind: int = 0
    ) -> None:
        """Add a builtin operator."""
        self._add(code, "", inputs, outputs).builtinOptions = options
        self._graph.operators[-1].builtinOptionsType = kind

    def custom(self, name: str, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Add an operator that a delegate has to take over."""
        made = self._add(schema.BuiltinOperator.CUSTOM, name, inputs, outputs)
        made.customOptions = np.frombuffer(b"what the compiler made", np.uint8)

    def _add(self, code: int, custom: str, inputs: Sequence[str], outputs: Sequence[str]) -> Any:
        entry = schema.OperatorCodeT()
        entry.builtinCode, entry.deprecatedBuiltinCode, entry.version = code, min(code, 127), 1
        entry.customCode = custom or None
        self._model.operatorCodes.append(entry)
        made = schema.OperatorT()
        made.opcodeIndex = len(self._model.operatorCodes) - 1
        made.inputs, made.outputs = [self._names[name] for name in inputs], [self._names[name] for name in outputs]
        self._graph.operators.append(made)
        return made

    def save(self, path: Path, inputs: Sequence[str], outputs: Sequence[str]) -> Path:
        """Write the file."""
        self._graph.inputs = [self._names[name] for name in inputs]
        self._graph.outputs = [self._names[name] for name in outputs]
        builder = flatbuffers.Builder(1 << 16)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(builder.Output()))
        return path


def _dense(graph: Graph, layer: int, source: str, target: str, width: int) -> None:
    numbers = np.random.default_rng(layer)
    spread = 1.6 / width**0.5
    weights = graph.tensor(
        f"w{layer}", (width, width), data=numbers.normal(0, spread, (width, width)).astype(np.float32)
    )
    bias = graph.tensor(f"b{layer}", (width,), data=numbers.normal(0, 0.1, width).astype(np.float32))
    options = schema.FullyConnectedOptionsT()
    options.fusedActivationFunction = schema.ActivationFunctionType.RELU
    graph.operator(
        schema.BuiltinOperator.FULLY_CONNECTED,
        [source, weights, bias],
        [target],
        options,
        kind=schema.BuiltinOptions.FullyConnectedOptions,
    )


def chain(
    path: Path, first: int = 0, last: int = LAYERS, *, layers: int = LAYERS, width: int = WIDTH, rows: int = 1
) -> Path:
    """Layers `first` up to `last` of the model; the last adds what the first layer made, "t1", to its own."""
    graph = Graph()
    source, inputs = graph.tensor(f"t{first}", (rows, width)), [f"t{first}"]
    for layer in range(first, last):
        target = graph.tensor(f"t{layer + 1}", (rows, width))
        _dense(graph, layer, source, target, width)
        source = target
    outputs = [source]
    if last == layers:
        if first > 1:
            inputs.append(graph.tensor("t1", (rows, width)))
        outputs = [graph.tensor("sum", (rows, width))]
        kind = schema.BuiltinOptions.AddOptions
        graph.operator(schema.BuiltinOperator.ADD, [source, "t1"], outputs, schema.AddOptionsT(), kind=kind)
    elif first == 0 and last > 1:
        outputs.append("t1")
    return graph.save(path, inputs, outputs)


def segments(
    folder: Path, name: str, cuts: Sequence[int] = (0, 1, 2, LAYERS), *, width: int = WIDTH, rows: int = 1
) -> list[Path]:
    """The model in parts, cut before these layers."""
    count = len(cuts) - 1
    paths = [folder / f"{name}_segment_{number}_of_{count}.tflite" for number in range(count)]
    return [
        chain(path, cuts[number], cuts[number + 1], layers=cuts[-1], width=width, rows=rows)
        for number, path in enumerate(paths)
    ]


def compiled(
    path: Path,
    *,
    inputs: Sequence[tuple[str, Sequence[int]]] = (("input", (1, 8, 8, 3)),),
    outputs: Sequence[tuple[str, Sequence[int]]] = (("scores", (1, 10)),),
) -> Path:
    """A model as it comes out of edgetpu_compiler: quantised, all of it one operator for the delegate."""
    graph = Graph()
    for name, shape in inputs:
        graph.tensor(name, shape, "uint8", scale=1 / 128, zero_point=128)
    for name, shape in outputs:
        graph.tensor(name, shape, "uint8", scale=1 / 256)
    names = [name for name, _ in inputs], [name for name, _ in outputs]
    graph.custom("edgetpu-custom-op", *names)
    return graph.save(path, *names)
