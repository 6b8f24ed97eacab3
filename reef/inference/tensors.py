"""Tensors between a request and a model: checked, quantised, given back. Knows no runtime and no picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reef.contracts.jobs import InputTensor
from reef.ports import EngineRefused, ModelFacts, TensorSpec

DTYPES = frozenset(
    {"uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64", "float16", "float32", "float64", "bool"}
)


class OutputTensor(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A tensor that a model wrote."""

    name: str
    shape: list[int]
    dtype: str
    data: bytes
    """Row by row, little-endian."""
    scale: float = 0.0
    zero_point: int = 0


def read_inputs(facts: ModelFacts, inputs: Sequence[Sequence[InputTensor]]) -> list[list[NDArray[Any]]]:
    """What a request sent, as the model reads it. Raises EngineRefused naming the input and what was expected."""
    return [_read_input(facts, tensors, f"Input {number}") for number, tensors in enumerate(inputs)]


def _read_input(facts: ModelFacts, tensors: Sequence[InputTensor], where: str) -> list[NDArray[Any]]:
    if len(tensors) != len(facts.inputs):
        wanted = ", ".join(describe(spec) for spec in facts.inputs)
        raise EngineRefused(f"{where} has {len(tensors)} tensors; {facts.name} reads {len(facts.inputs)}: {wanted}.")
    if not any(tensor.name for tensor in tensors):
        return [_read(tensor, spec, where) for tensor, spec in zip(tensors, facts.inputs, strict=True)]
    named = {tensor.name: tensor for tensor in tensors}
    for spec in facts.inputs:
        if spec.name not in named:
            known = ", ".join(repr(one.name) for one in facts.inputs)
            raise EngineRefused(f"{where} has no tensor {spec.name!r}; {facts.name} reads {known}.")
    return [_read(named[spec.name], spec, where) for spec in facts.inputs]


def _read(tensor: InputTensor, spec: TensorSpec, where: str) -> NDArray[Any]:
    dtype = tensor.dtype or spec.dtype
    quantises = dtype == "float32" and spec.scale > 0
    if dtype != spec.dtype and not quantises:
        hint = ", or float32 to be quantised here" if spec.scale > 0 else ""
        raise EngineRefused(f"{where}: dtype {dtype!r} does not fit {describe(spec)}; send {spec.dtype}{hint}.")
    if tensor.shape and tuple(tensor.shape) not in (spec.shape, spec.shape[1:]):
        raise EngineRefused(f"{where}: shape {tensor.shape} does not fit {describe(spec)}.")
    kind = np.dtype(dtype).newbyteorder("<")
    wanted_bytes = math.prod(spec.shape) * kind.itemsize
    if len(tensor.data) != wanted_bytes:
        raise EngineRefused(
            f"{where}: {len(tensor.data)} bytes do not fit {describe(spec)}: {wanted_bytes} are needed."
        )
    values = np.frombuffer(tensor.data, dtype=kind).reshape(spec.shape)
    if dtype == "bool" and values.view(np.uint8).max(initial=0) > 1:
        raise EngineRefused(f"{where}: bool is one byte, 0 or 1.")
    return quantise(values, spec) if quantises else values


def quantise(values: NDArray[Any], spec: TensorSpec) -> NDArray[Any]:
    """Values as the numbers that stand for them, clipped to what the type holds."""
    limits = np.iinfo(spec.dtype)
    numbers = np.rint(np.nan_to_num(values.astype(np.float64)) / spec.scale) + spec.zero_point
    clipped: NDArray[Any] = numbers.clip(limits.min, limits.max).astype(spec.dtype)
    return clipped


def dequantise(numbers: NDArray[Any], spec: TensorSpec) -> NDArray[np.float32]:
    """The values that numbers stand for."""
    if spec.scale <= 0:
        return numbers.astype(np.float32)
    return ((numbers.astype(np.float32) - spec.zero_point) * np.float32(spec.scale)).astype(np.float32)


def write_outputs(facts: ModelFacts, outputs: Sequence[NDArray[Any]], *, floats: bool) -> list[OutputTensor]:
    """What a model wrote, for the answer."""
    return [_write(values, spec, floats=floats) for values, spec in zip(outputs, facts.outputs, strict=True)]


def _write(values: NDArray[Any], spec: TensorSpec, *, floats: bool) -> OutputTensor:
    scale, zero_point = spec.scale, spec.zero_point
    if floats and scale > 0:
        values, scale, zero_point = dequantise(values, spec), 0.0, 0
    return OutputTensor(
        name=spec.name,
        shape=list(values.shape),
        dtype=values.dtype.name,
        data=np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"), copy=False).tobytes(),
        scale=scale,
        zero_point=zero_point,
    )


def answer_bytes(facts: ModelFacts, inputs: int, *, floats: bool) -> int:
    """How long the outputs of so many inputs are at least."""
    each = 0
    for spec in facts.outputs:
        kind = "float32" if floats and spec.scale > 0 else spec.dtype
        each += math.prod(spec.shape) * np.dtype(kind).itemsize
    return each * inputs


def check_dtypes(facts: ModelFacts) -> None:
    """Raises EngineRefused where a tensor is of a kind that is not numbers."""
    for spec in (*facts.inputs, *facts.outputs):
        if spec.dtype not in DTYPES:
            raise EngineRefused(f"{facts.name}: tensor {spec.name!r} is of type {spec.dtype}; only numbers are served.")


def describe(spec: TensorSpec) -> str:
    """A tensor in words for a person."""
    return f"{spec.name!r} ({spec.dtype} {list(spec.shape)})"
