"""Small networks with float32 weights, made here: one of dense layers as .tflite and as .onnx, and examples for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from ai_edge_litert import schema_py_generated as schema
from numpy.typing import NDArray

from embeddings_engine.build.flatgraph import Model

WIDTH, HIDDEN, OUT = 32, 64, 10


def weights(seed: int = 1) -> list[NDArray[np.float32]]:
    """Two layers: weights as (out, in), then biases."""
    random = np.random.default_rng(seed)
    shapes = ((HIDDEN, WIDTH), (HIDDEN,), (OUT, HIDDEN), (OUT,))
    return [random.normal(0, 0.3, shape).astype(np.float32) for shape in shapes]


def dense_tflite(seed: int = 1) -> bytes:
    """The network as a .tflite file."""
    first, first_bias, second, second_bias = weights(seed)
    model = Model("made by a test")
    graph = model.graph("serving_default")
    x = graph.input("x", (1, WIDTH))
    graph._graph.tensors[x].type = schema.TensorType.FLOAT32  # the builder's own inputs are token ids
    hidden = graph.op(
        "FULLY_CONNECTED",
        [x, graph.constant("w1", first), graph.constant("b1", first_bias)],
        (1, HIDDEN),
        fusedActivationFunction=1,
    )
    y = graph.op("FULLY_CONNECTED", [hidden, graph.constant("w2", second), graph.constant("b2", second_bias)], (1, OUT))
    graph.output("y", y)
    return bytes(model.to_bytes())


def dense_onnx(seed: int = 1) -> bytes:
    """The network as an .onnx file."""
    from onnx import TensorProto, helper, numpy_helper

    names = ("w1", "b1", "w2", "b2")
    stored = [
        numpy_helper.from_array(np.ascontiguousarray(one.T), name)
        for name, one in zip(names, weights(seed), strict=True)
    ]
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["m1"]),
        helper.make_node("Add", ["m1", "b1"], ["a1"]),
        helper.make_node("Relu", ["a1"], ["h"]),
        helper.make_node("MatMul", ["h", "w2"], ["m2"]),
        helper.make_node("Add", ["m2", "b2"], ["y"]),
    ]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, WIDTH])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, OUT])
    graph = helper.make_graph(nodes, "dense", [x], [y], stored)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    return bytes(model.SerializeToString())


def examples(path: Path, count: int = 32) -> Path:
    """An .npz file of inputs for it."""
    np.savez(path, x=np.random.default_rng(7).normal(size=(count, WIDTH)).astype(np.float32))
    return path
