"""The float32 ONNX form of an encoder, for GPUs and as the exact reference on a CPU: any batch, any length."""

from __future__ import annotations

import numpy as np

from embeddings_engine.build.checkpoint import Checkpoint, Layer, Linear, Norm
from embeddings_engine.build.protobuf import OnnxGraph

MASKED = -10000.0


def build_onnx(checkpoint: Checkpoint) -> bytes:
    """The file's bytes: `input_ids`, `attention_mask` (int64, batch × n) → `vector` (float32, batch × d, unit)."""
    encoder = _Encoder(checkpoint)
    encoder.build()
    sizes = ("batch", "tokens")
    return encoder.graph.to_bytes(
        [("input_ids", sizes), ("attention_mask", sizes)], ("vector", ("batch", checkpoint.shape.hidden))
    )


class _Encoder:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self.graph = OnnxGraph()
        self._checkpoint = checkpoint
        self._shape = checkpoint.shape

    def build(self) -> None:
        graph = self.graph
        present = graph.op("Cast", ["attention_mask"], to=1)
        blocked = graph.op(
            "Mul", [graph.op("Sub", [self._scalar("one", 1.0), present]), self._scalar("masked", MASKED)]
        )
        bias = graph.op("Unsqueeze", [blocked, self._ints("middle", 1, 2)])
        x = self._embed()
        for index, layer in enumerate(self._checkpoint.layers):
            x = self._layer(x, layer, f"layer{index}", bias)
        graph.name_output(self._unit(self._pool(x, present)), "vector")

    def _embed(self) -> str:
        graph = self.graph
        words = graph.op("Gather", [graph.constant("words", self._checkpoint.words), "input_ids"])
        tokens = graph.op("Shape", ["input_ids"], start=1, end=2)
        table = graph.constant("places", self._checkpoint.places)
        places = graph.op("Slice", [table, self._ints("first", 0), tokens, self._ints("first", 0)])
        return self._norm(graph.op("Add", [words, places]), self._checkpoint.embedding_norm, "embedding")

    def _layer(self, x: str, layer: Layer, at: str, bias: str) -> str:
        graph = self.graph
        mixed = self._attention(x, layer, at, bias)
        x = self._norm(
            graph.op("Add", [x, self._dense(mixed, layer.attended, f"{at}.attended")]), layer.attention_norm, f"{at}.a"
        )
        inner = self._dense(x, layer.up, f"{at}.up")
        if self._shape.activation == "relu":
            inner = graph.op("Relu", [inner])
        else:
            inner = graph.op("Gelu", [inner], approximate="tanh" if self._shape.activation == "gelu_tanh" else "none")
        return self._norm(
            graph.op("Add", [x, self._dense(inner, layer.down, f"{at}.down")]), layer.output_norm, f"{at}.o"
        )

    def _attention(self, x: str, layer: Layer, at: str, bias: str) -> str:
        graph, shape = self.graph, self._shape
        scale = np.float32(1 / np.sqrt(shape.head))
        query = Linear(layer.query.weight * scale, layer.query.bias * scale)
        split = self._ints("split", 0, 0, shape.heads, shape.head)
        q, k, v = (
            graph.op("Transpose", [graph.op("Reshape", [self._dense(x, part, f"{at}.{name}"), split])], perm=order)
            for name, part, order in (
                ("q", query, (0, 2, 1, 3)),
                ("k", layer.key, (0, 2, 3, 1)),
                ("v", layer.value, (0, 2, 1, 3)),
            )
        )
        weights = graph.op("Softmax", [graph.op("Add", [graph.op("MatMul", [q, k]), bias])], axis=-1)
        mixed = graph.op("Transpose", [graph.op("MatMul", [weights, v])], perm=(0, 2, 1, 3))
        return graph.op("Reshape", [mixed, self._ints("joined", 0, 0, shape.hidden)])

    def _pool(self, x: str, present: str) -> str:
        graph = self.graph
        if self._shape.pooling == "cls":
            return graph.op("Gather", [x, graph.constant("zero", np.array(0, np.int64))], axis=1)
        weights = graph.op("Unsqueeze", [present, self._ints("last", 2)])
        axis = self._ints("axis1", 1)
        total = graph.op("ReduceSum", [graph.op("Mul", [x, weights]), axis], keepdims=0)
        return graph.op("Div", [total, graph.op("ReduceSum", [weights, axis], keepdims=0)])

    def _unit(self, x: str) -> str:
        graph = self.graph
        total = graph.op("ReduceSum", [graph.op("Mul", [x, x]), self._ints("axis1", 1)], keepdims=1)
        return graph.op("Div", [x, graph.op("Sqrt", [total])])

    def _dense(self, x: str, linear: Linear, name: str) -> str:
        weight = self.graph.constant(f"{name}.weight", np.ascontiguousarray(linear.weight.T))
        return self.graph.op(
            "Add", [self.graph.op("MatMul", [x, weight]), self.graph.constant(f"{name}.bias", linear.bias)]
        )

    def _norm(self, x: str, norm: Norm, name: str) -> str:
        gain, bias = self.graph.constant(f"{name}.gain", norm.gain), self.graph.constant(f"{name}.shift", norm.bias)
        return self.graph.op("LayerNormalization", [x, gain, bias], axis=-1, epsilon=float(self._shape.epsilon))

    def _scalar(self, name: str, value: float) -> str:
        return self.graph.constant(name, np.array(value, np.float32))

    def _ints(self, name: str, *values: int) -> str:
        return self.graph.constant(name, np.array(values, np.int64))
