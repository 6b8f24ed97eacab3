"""The encoder in plain numpy, float32: what every faster form of it is compared with. Slow and never served from."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.build.checkpoint import Array, Checkpoint, Layer, Linear, Norm

_ERF = (0.254829592, -0.284496736, 1.421413741, -1.453152027, 1.061405429)


def embed_ids(checkpoint: Checkpoint, ids: Sequence[int]) -> Array:
    """The normalised vector of one sequence of token ids, special tokens included."""
    shape = checkpoint.shape
    x = checkpoint.words[list(ids)] + checkpoint.places[: len(ids)]
    x = _norm(x, checkpoint.embedding_norm, shape.epsilon)
    for layer in checkpoint.layers:
        x = _layer(x, layer, checkpoint)
    pooled = x[0] if shape.pooling == "cls" else x.mean(axis=0)
    return np.asarray(pooled / np.linalg.norm(pooled), dtype=np.float32)


def _layer(x: Array, layer: Layer, checkpoint: Checkpoint) -> Array:
    shape = checkpoint.shape
    query, key, value = (_heads(_linear(x, part), shape.heads) for part in (layer.query, layer.key, layer.value))
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(np.float32(shape.head))
    mixed = (_softmax(scores) @ value).transpose(1, 0, 2).reshape(x.shape)
    x = _norm(x + _linear(mixed, layer.attended), layer.attention_norm, shape.epsilon)
    inner = activate(_linear(x, layer.up), shape.activation)
    return _norm(x + _linear(inner, layer.down), layer.output_norm, shape.epsilon)


def _heads(x: Array, heads: int) -> Array:
    return x.reshape(len(x), heads, -1).transpose(1, 0, 2)


def _linear(x: Array, linear: Linear) -> Array:
    return np.asarray(x @ linear.weight.T + linear.bias)


def _norm(x: Array, norm: Norm, epsilon: float) -> Array:
    centred = x - x.mean(axis=-1, keepdims=True)
    scale = np.sqrt((centred * centred).mean(axis=-1, keepdims=True) + np.float32(epsilon))
    return np.asarray(centred / scale * norm.gain + norm.bias)


def _softmax(x: Array) -> Array:
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=-1, keepdims=True))


def activate(x: Array, kind: str) -> Array:
    """The activation between the two halves of the feed-forward block."""
    if kind == "relu":
        return np.maximum(x, 0)
    if kind == "gelu_tanh":
        inner = np.float32(np.sqrt(2 / np.pi)) * (x + np.float32(0.044715) * x**3)
        return np.asarray(np.float32(0.5) * x * (1 + np.tanh(inner)))
    return np.asarray(np.float32(0.5) * x * (1 + _erf(x / np.float32(np.sqrt(2)))))


def _erf(x: Array) -> NDArray[np.float32]:
    """Abramowitz and Stegun 7.1.26: within 1.5e-7, which is what float32 can tell apart here."""
    t = 1 / (1 + np.float32(0.3275911) * np.abs(x))
    series = np.zeros_like(t)
    for factor in reversed(_ERF):
        series = (series + np.float32(factor)) * t
    return np.asarray(np.sign(x) * (1 - series * np.exp(-x * x)), dtype=np.float32)
