"""Widening a small model's weights changes how they are stored, and no value."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from workers.engines.openvino_parts import plain_import
from workers.engines.openvino_weights import widen

plain_import()

import openvino as ov  # noqa: E402 - after its telemetry was silenced
from openvino import opset13 as op  # noqa: E402

Array = NDArray[Any]
_alive: list[Array] = []
"""A tensor of packed numbers shares the memory of its array and does not keep it."""


def packed(values: Array) -> Any:
    """A constant of 4-bit numbers."""
    flat = values.astype(np.uint8).reshape(-1)
    raw = (flat[0::2] | (flat[1::2] << 4)).astype(np.uint8)
    _alive.append(raw)
    return op.constant(ov.Tensor(raw, ov.Shape(values.shape), ov.Type.u4))


def network(weights: Any, zeros: Any) -> Any:
    """x * (weights - zeros)."""
    x = op.parameter([1], np.float32, name="x")
    difference = op.subtract(op.convert(weights, "f32"), op.convert(zeros, "f32"))
    return ov.Model([op.multiply(difference, x)], [x], "net")


def result(model: Any) -> Array:
    """What the network gives for 1."""
    return np.array(ov.Core().compile_model(model, "CPU")([np.ones(1, np.float32)])[0])


@pytest.mark.parametrize("kind", ["u4", "u8"])
def test_values_stay_the_same(kind: str) -> None:
    """Every weight minus its zero point is what it was, in one signed constant."""
    random = np.random.default_rng(7)
    high = 16 if kind == "u4" else 128
    weights, zeros = random.integers(0, high, (6, 4, 8)), random.integers(0, high, (6, 4, 1))
    make = packed if kind == "u4" else (lambda values: op.constant(values.astype(np.uint8)))
    model = network(make(weights), make(zeros))
    before = result(model)
    assert widen(model) == 1
    assert not [node for node in model.get_ops() if node.get_type_name() == "Subtract"]
    np.testing.assert_array_equal(result(model), before)
    np.testing.assert_array_equal(before, (weights - zeros).astype(np.float32))


def test_what_does_not_fit_is_left_alone() -> None:
    """A difference beyond a signed byte stays as it was."""
    model = network(op.constant(np.array([250], np.uint8)), op.constant(np.array([1], np.uint8)))
    assert widen(model) == 0
    assert result(model)[0] == 249
