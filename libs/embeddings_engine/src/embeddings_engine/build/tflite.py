"""The dynamic-int8 TFLite form of an encoder: int8 weights per output channel, float32 activations.

The graph is cut to what XNNPACK runs fast; each liberty taken with its arithmetic is exact in real numbers:
- a layer norm's gain and bias are folded into the weights that read its result; the residual path adds the gain back,
  and its bias is folded into the bias of the layer that is added to it;
- 1/sqrt(head) is folded into the query weights;
- query, key and value are one product, so activations are quantised once;
- the last norm's gain and bias are applied after pooling.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from embeddings_engine.build.checkpoint import Array, Checkpoint, Linear, Norm
from embeddings_engine.build.flatgraph import Graph, Model

SIGNATURE_TOKENS = (16, 32, 64, 128, 192, 224, 256, 384, 512)
"""Lengths a text can be padded to. Weights are shared, so one more costs some kilobytes and its position rows;
an interpreter that uses it takes some 10 MB more. Most passages have 130 to 250 tokens: hence the steps there."""
MASKED = -10000.0
"""Added to the score of a padding token: its share of attention underflows to zero."""
_FULLY_CONNECTED_VERSION = 5
"""The version that reads int8 weights per channel with float activations."""


@dataclass(frozen=True)
class _Stream:
    """A normalised tensor whose gain and bias are still to be applied by whoever reads it."""

    tensor: int
    norm: Norm


def build_tflite(
    checkpoint: Checkpoint,
    signature_tokens: Sequence[int] = SIGNATURE_TOKENS,
    progress: Callable[[float, str], None] = lambda share, text: None,
) -> bytes:
    """The file's bytes; signatures `s16` … take `ids` and `mask` (int32, 1 × n) and give `vector` (float32, 1 × d)."""
    lengths = [tokens for tokens in sorted(signature_tokens) if tokens <= checkpoint.shape.positions]
    model = Model(f"{checkpoint.shape.layers}-layer encoder, dynamic int8 per channel")
    for index, tokens in enumerate(lengths):
        progress(index / (len(lengths) + 1), f"building the graph for {tokens} tokens")
        _Encoder(checkpoint, model.graph(f"s{tokens}"), tokens).build()
    progress(len(lengths) / (len(lengths) + 1), "writing the file")
    data = model.to_bytes()
    progress(1.0, "built")
    return data


def quantise_rows(weight: Array) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int8]], Array]:
    """Symmetric int8 per row: the weights and one scale per row."""
    scales = np.maximum(np.abs(weight).max(axis=1), np.float32(1e-12)) / np.float32(127)
    quantised = np.clip(np.rint(weight / scales[:, None]), -127, 127).astype(np.int8)
    return quantised, scales.astype(np.float32)


class _Encoder:
    """Builds one subgraph. Tensors are 2-D, tokens × hidden: the batch is always one text."""

    def __init__(self, checkpoint: Checkpoint, graph: Graph, tokens: int) -> None:
        self._checkpoint = checkpoint
        self._shape = checkpoint.shape
        self._graph = graph
        self._tokens = tokens

    def build(self) -> None:
        graph, tokens = self._graph, self._tokens
        ids, mask = graph.input("ids", (1, tokens)), graph.input("mask", (1, tokens))
        present = graph.op("CAST", [mask], (1, tokens), inDataType=2, outDataType=0)
        stream = self._embed(ids)
        blocked = self._scalar_op("SUB", "one", 1.0, present)
        bias = self._binary("MUL", blocked, self._scalar("masked", MASKED))
        bias = self._reshape(bias, (1, 1, tokens))
        for index in range(self._shape.layers):
            stream = self._layer(stream, index, bias)
        graph.output("vector", self._unit(self._pool(stream, present)))

    def _embed(self, ids: int) -> _Stream:
        graph, shape, tokens = self._graph, self._shape, self._tokens
        table, scales = quantise_rows(self._checkpoint.words)
        flat = self._reshape(ids, (tokens,), dtype="int32")
        words = graph.op("EMBEDDING_LOOKUP", [flat, graph.constant("words", table, scales)], (tokens, shape.hidden))
        places = graph.constant(f"places.{tokens}", self._checkpoint.places[:tokens])
        return self._norm(self._binary("ADD", words, places), self._checkpoint.embedding_norm)

    def _layer(self, stream: _Stream, index: int, bias: int) -> _Stream:
        layer, at = self._checkpoint.layers[index], f"layer{index}"
        mixed = self._attention(stream, index, bias)
        added = self._dense(mixed, f"{at}.attended", _shifted(layer.attended, stream.norm.bias))
        stream = self._norm(self._residual(added, stream, f"{at}.in"), layer.attention_norm)
        inner = self._dense(stream.tensor, f"{at}.up", _folded(layer.up, stream.norm))
        if self._shape.activation == "relu":
            inner = self._binary("MAXIMUM", inner, self._scalar("zero", 0.0))
        else:
            approximate = self._shape.activation == "gelu_tanh"
            inner = self._graph.op("GELU", [inner], self._graph.shape(inner), approximate=approximate)
        added = self._dense(inner, f"{at}.down", _shifted(layer.down, stream.norm.bias))
        return self._norm(self._residual(added, stream, f"{at}.mid"), layer.output_norm)

    def _attention(self, stream: _Stream, index: int, bias: int) -> int:
        graph, shape, tokens = self._graph, self._shape, self._tokens
        layer = self._checkpoint.layers[index]
        scale = np.float32(1 / np.sqrt(shape.head))
        query = Linear(layer.query.weight * scale, layer.query.bias * scale)
        joined = Linear(
            np.concatenate([query.weight, layer.key.weight, layer.value.weight]),
            np.concatenate([query.bias, layer.key.bias, layer.value.bias]),
        )
        mixed = self._dense(stream.tensor, f"layer{index}.qkv", _folded(joined, stream.norm))
        mixed = self._transpose(self._reshape(mixed, (tokens, 3 * shape.heads, shape.head)), (1, 0, 2))
        axis = graph.constant("axis0", np.array(0, np.int32))
        part = (shape.heads, tokens, shape.head)
        q, k, v = graph.op_many("SPLIT", [axis, mixed], [part] * 3, numSplits=3)
        scores = graph.op("BATCH_MATMUL", [q, k], (shape.heads, tokens, tokens), adjX=False, adjY=True)
        weights = graph.op("SOFTMAX", [self._binary("ADD", scores, bias)], graph.shape(scores), beta=1.0)
        out = graph.op("BATCH_MATMUL", [weights, v], part, adjX=False, adjY=False)
        return self._reshape(self._transpose(out, (1, 0, 2)), (tokens, shape.hidden))

    def _residual(self, added: int, stream: _Stream, at: str) -> int:
        gain = self._graph.constant(f"{at}.gain", stream.norm.gain)
        return self._binary("ADD", added, self._binary("MUL", stream.tensor, gain))

    def _norm(self, tensor: int, norm: Norm) -> _Stream:
        graph, tokens = self._graph, self._tokens
        axis = graph.constant("axis1", np.array([1], np.int32))
        mean = graph.op("MEAN", [tensor, axis], (tokens, 1), keepDims=True)
        centred = self._binary("SUB", tensor, mean)
        squares = self._binary("MUL", centred, centred)
        variance = graph.op("MEAN", [squares, axis], (tokens, 1), keepDims=True)
        shifted = self._binary("ADD", variance, self._scalar("epsilon", self._shape.epsilon))
        return _Stream(self._binary("MUL", centred, graph.op("RSQRT", [shifted], (tokens, 1))), norm)

    def _pool(self, stream: _Stream, present: int) -> int:
        graph, hidden = self._graph, self._shape.hidden
        if self._shape.pooling == "cls":
            begin, size = np.array([0, 0], np.int32), np.array([1, hidden], np.int32)
            inputs = [stream.tensor, graph.constant("cls.begin", begin), graph.constant("cls.size", size)]
            pooled = graph.op("SLICE", inputs, (1, hidden))
        else:
            total = graph.op("BATCH_MATMUL", [present, stream.tensor], (1, hidden), adjX=False, adjY=False)
            axis = graph.constant("axis1", np.array([1], np.int32))
            count = graph.op("SUM", [present, axis], (1, 1), keepDims=True)
            pooled = self._binary("DIV", total, self._binary("MAXIMUM", count, self._scalar("one", 1.0)))
        scaled = self._binary("MUL", pooled, graph.constant("last.gain", stream.norm.gain))
        return self._binary("ADD", scaled, graph.constant("last.bias", stream.norm.bias))

    def _unit(self, vector: int) -> int:
        graph = self._graph
        axis = graph.constant("axis1", np.array([1], np.int32))
        total = graph.op("SUM", [self._binary("MUL", vector, vector), axis], (1, 1), keepDims=True)
        total = self._binary("MAXIMUM", total, self._scalar("tiny", 1e-18))
        return self._binary("MUL", vector, graph.op("RSQRT", [total], (1, 1)))

    def _dense(self, tensor: int, name: str, linear: Linear) -> int:
        weight, scales = quantise_rows(linear.weight)
        constants = [
            self._graph.constant(f"{name}.weight", weight, scales),
            self._graph.constant(f"{name}.bias", linear.bias.astype(np.float32)),
        ]
        shape = (self._tokens, len(weight))
        return self._graph.op(
            "FULLY_CONNECTED", [tensor, *constants], shape, version=_FULLY_CONNECTED_VERSION, keepNumDims=True
        )

    def _binary(self, kind: str, left: int, right: int) -> int:
        shape = np.broadcast_shapes(self._graph.shape(left), self._graph.shape(right))
        return self._graph.op(kind, [left, right], shape)

    def _scalar_op(self, kind: str, name: str, value: float, right: int) -> int:
        return self._binary(kind, self._scalar(name, value), right)

    def _scalar(self, name: str, value: float) -> int:
        return self._graph.constant(name, np.array(value, np.float32))

    def _reshape(self, tensor: int, shape: tuple[int, ...], dtype: str = "float32") -> int:
        target = self._graph.constant("shape" + "x".join(map(str, shape)), np.array(shape, np.int32))
        return self._graph.op_many("RESHAPE", [tensor, target], [shape], dtype=dtype, newShape=list(shape))[0]

    def _transpose(self, tensor: int, order: tuple[int, ...]) -> int:
        shape = [self._graph.shape(tensor)[axis] for axis in order]
        name = "order" + "".join(map(str, order))
        return self._graph.op("TRANSPOSE", [tensor, self._graph.constant(name, np.array(order, np.int32))], shape)


def _folded(linear: Linear, norm: Norm) -> Linear:
    """The layer that reads a normalised tensor directly instead of gain · tensor + bias."""
    return Linear(linear.weight * norm.gain, linear.bias + linear.weight @ norm.bias)


def _shifted(linear: Linear, by: Array) -> Linear:
    return Linear(linear.weight, linear.bias + by)
