"""Formulas of the planner and the constants in them, each with its source. Arithmetic only; docs/planning.md explains.

A pass takes some tokens (one of each running conversation, or a whole prompt) once through the network. Bytes are int8
weights, so a parameter is a byte; an operation is a multiplication or an addition, two for each parameter and token.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import msgspec

OPS_PER_PARAMETER = 2.0
"""A multiplication and an addition for each parameter and token; attention over the context comes on top."""


class Silicon(msgspec.Struct, frozen=True, kw_only=True):
    """One device as the formulas see it. All figures are upper bounds: no software reaches them exactly."""

    near_bytes: float
    """Weights it can keep beside its arithmetic."""
    near_bytes_per_s: float = math.inf
    """How fast those are read; inf: reading them costs no time of its own."""
    link_bytes_per_s: float = math.inf
    """How fast weights that do not fit are fetched, again for every pass."""
    ops_per_s: float
    hop_s: float = 0.0
    """Time of handing a pass to this device and taking it back."""


# --- the Edge TPU

EDGETPU_OPS_PER_S = 4e12
"""coral.ai/docs/edgetpu/benchmarks: 4 TOPS at 0.5 W each."""
EDGETPU_NEAR_BYTES = 7e6
"""Of 8 MB of SRAM (coral.ai/docs/edgetpu/compiler, parameter data caching), some hold the program and activations."""
EDGETPU_LINK_BYTES_PER_S = 0.45e9
"""What the benchmarks below imply. PCIe Gen2 x1 carries 0.5 GB/s at most, USB 3.0 0.625 GB/s before its protocol."""
EDGETPU_HOP_S = 1e-3
EDGETPU_HOP_BEST_S, EDGETPU_HOP_WORST_S = 0.5e-3, 2e-3
"""The smallest network in coral.ai's table (SqueezeNet) takes 2.0 ms in all, so a hop costs no more than that."""


class Benchmark(msgspec.Struct, frozen=True):
    """A row of coral.ai/docs/edgetpu/benchmarks; parameters and multiply-adds are those of the networks' papers."""

    name: str
    parameters: float
    multiply_adds: float
    usb_s: float
    board_s: float


BENCHMARKS = (
    Benchmark("VGG16", 138.4e6, 15.5e9, 0.296, 0.343),
    Benchmark("Inception v4", 42.7e6, 12.3e9, 0.085, 0.102),
    Benchmark("ResNet-152 V2 (299 px)", 60.4e6, 20.5e9, 0.128, 0.151),
    Benchmark("MobileNet v1", 4.2e6, 0.569e9, 0.0024, 0.0024),
    Benchmark("MobileNet v2", 3.5e6, 0.300e9, 0.0026, 0.0026),
    Benchmark("Inception v1", 6.6e6, 1.5e9, 0.0034, 0.0041),
)


def implied_link(row: Benchmark, seconds: float) -> float:
    """Bytes per second at which the weights beyond the SRAM must have come for the network to take so long."""
    computing_s = OPS_PER_PARAMETER * row.multiply_adds / EDGETPU_OPS_PER_S
    return (row.parameters - EDGETPU_NEAR_BYTES) / (seconds - computing_s)


def implied_efficiency(row: Benchmark) -> float:
    """Share of the arithmetic that a network which fits the SRAM used, over USB."""
    return OPS_PER_PARAMETER * row.multiply_adds / row.usb_s / EDGETPU_OPS_PER_S


def efficiency_range() -> tuple[float, float]:
    """Worst and best share of the arithmetic among the benchmarks that fit the SRAM."""
    shares = [implied_efficiency(row) for row in BENCHMARKS if row.parameters <= EDGETPU_NEAR_BYTES]
    return min(shares), max(shares)


# --- formulas


def devices_to_hold(weight_bytes: float, silicon: Silicon) -> int:
    """Devices that keep all weights beside their arithmetic: N / S, rounded up."""
    return max(1, math.ceil(weight_bytes / silicon.near_bytes))


def pass_s(weight_bytes: float, devices: int, silicon: Silicon, tokens: float = 1.0, parameters: float = 0.0) -> float:
    """One pass through a model that is cut over devices, of one conversation: its stages run one after another.

    near / R + (N - near) / B + K h + 2 P tokens / O, where near = min(N, K S).
    """
    near = min(weight_bytes, devices * silicon.near_bytes)
    fetched = weight_bytes - near
    computing_s = OPS_PER_PARAMETER * (parameters or weight_bytes) * tokens / silicon.ops_per_s
    return near / silicon.near_bytes_per_s + fetched / silicon.link_bytes_per_s + devices * silicon.hop_s + computing_s


def encodings_per_s(parameters: float, tokens: float, silicon: Silicon, efficiency: float = 1.0) -> float:
    """Texts of so many tokens that one device's arithmetic allows, its weights being there already."""
    return efficiency * silicon.ops_per_s / (OPS_PER_PARAMETER * parameters * tokens)


def streamed_encodings_per_s(weight_bytes: float, tokens: float, silicon: Silicon) -> float:
    """Texts that one device encodes one at a time when it fetches what it cannot keep for each."""
    return 1.0 / pass_s(weight_bytes, 1, silicon, tokens)


def largest_model(good: Callable[[float], bool], most_bytes: float = 1e12) -> float:
    """Bytes of the largest model for which `good` holds; 0 where it holds for none. `good` must turn false once."""
    low, high = 0.0, most_bytes
    if not good(1.0):
        return 0.0
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if good(middle) else (low, middle)
    return low
