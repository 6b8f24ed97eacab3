"""Kinds of devices a plan can be made for, with their published or measured figures, and how a command names them."""

from __future__ import annotations

import re

import msgspec

from reef.planning import physics
from reef.planning.curves import Batching, Curve, Staged
from reef.planning.models import SMOLLM2, PlannedModel
from reef.planning.physics import Silicon

COUNT_MAX = 1024

REFERENCE_STEP_FIXED_S, REFERENCE_STEP_STREAM_S = 0.00874, 0.00078
REFERENCE_PROMPT_FIXED_S, REFERENCE_PROMPT_TOKEN_S = 0.0243, 0.00017
"""SmolLM2-135M on two cores: `make bench BENCH="chat"` in docs/performance.md, 105 tokens/s in one conversation and 534
in eight; first text after 39.5 and 111 ms with prompts of about 60 tokens, of which the persona's part is cached."""
REFERENCE_CORES = 2
REFERENCE_MODEL = SMOLLM2
CORES_BEYOND_WHICH_MEMORY_LIMITS = 16
REFERENCE_SWAP_S = 0.86
"""Until that model is ready in a new worker: `make bench BENCH="recovery"` in docs/performance.md."""
CPU_STREAMS = 8
REFERENCE = Batching(
    step_fixed_s=REFERENCE_STEP_FIXED_S,
    step_stream_s=REFERENCE_STEP_STREAM_S,
    prompt_fixed_s=REFERENCE_PROMPT_FIXED_S,
    prompt_token_s=REFERENCE_PROMPT_TOKEN_S,
    streams=CPU_STREAMS,
)


class DeviceSet(msgspec.Struct, frozen=True, kw_only=True):
    """So many devices of a kind."""

    kind: str
    count: int
    """Cores for `cpu`, which is one device."""
    measured: Batching | None = None
    """Of one device, from replies that were written here (kind `here`)."""
    measured_model: PlannedModel | None = None
    """What wrote them."""

    @property
    def name(self) -> str:
        """As the command line writes it."""
        return f"{self.kind}:{self.count}"

    @property
    def devices(self) -> int:
        """Devices that can be given out one by one."""
        return 1 if self.kind == "cpu" else self.count

    @property
    def silicon(self) -> Silicon | None:
        """The figures for the formulas; None for kinds that are known by measuring."""
        return SILICON.get(self.kind)

    def hold(self, model: PlannedModel) -> int:
        """Devices that keep all weights of one copy of the model where they can be used at full speed."""
        return physics.devices_to_hold(self.weights(model), self.silicon) if self.silicon else 1

    def weights(self, model: PlannedModel) -> float:
        """Bytes of the model there."""
        return model.weight_bytes if self.kind == "edgetpu" else model.stored_bytes

    def curve(self, model: PlannedModel, devices: int) -> Curve:
        """How one copy of the model on so many of these devices serves."""
        if self.kind == "edgetpu":
            return _edgetpu(model, devices)
        if self.kind == "cuda":
            return _cuda(model)
        if self.measured is not None and self.measured_model is not None:
            known = self.measured_model
            return self.measured if model == known else _scaled(self.measured, known, model, 1.0)
        return _scaled(REFERENCE, REFERENCE_MODEL, model, self._faster)

    @property
    def _faster(self) -> float:
        return min(self.count, CORES_BEYOND_WHICH_MEMORY_LIMITS) / REFERENCE_CORES

    def swap_s(self, model: PlannedModel, devices: int) -> float:
        """Putting another model of this size there, from the host's memory."""
        if self.silicon is None:
            return REFERENCE_SWAP_S * model.stored_bytes / REFERENCE_MODEL.stored_bytes
        held = min(self.weights(model), devices * self.silicon.near_bytes)
        return held / devices / self.silicon.link_bytes_per_s


EDGETPU = Silicon(
    near_bytes=physics.EDGETPU_NEAR_BYTES,
    link_bytes_per_s=physics.EDGETPU_LINK_BYTES_PER_S,
    ops_per_s=physics.EDGETPU_OPS_PER_S,
    hop_s=physics.EDGETPU_HOP_S,
)
CUDA = Silicon(near_bytes=22e9, near_bytes_per_s=1.008e12, link_bytes_per_s=25e9, ops_per_s=82.6e12)
"""A GeForce RTX 4090 by its data sheet: 24 GB (2 left for context), 1,008 GB/s, 82.6 TFLOPS in FP32, PCIe 4.0 x16."""
SILICON = {"edgetpu": EDGETPU, "cuda": CUDA}
CUDA_STREAMS = 32
KINDS = {
    "edgetpu": "Edge TPUs over PCIe or USB 3: 7 MB of weights on chip, 0.45 GB/s, 4 TOPS, 1 ms a hop",
    "cpu": "one CPU device of so many cores, scaled from SmolLM2-135M on two cores",
    "cuda": "GPUs of 24 GB and 1,008 GB/s, at the bound of their data sheet",
    "here": "devices like this machine's, from the replies in its ledger",
}
_DEVICES = re.compile(r"^(?P<kind>[a-z]+):(?P<count>\d{1,6})$")


class UnknownDevices(ValueError):
    """The text names no devices a plan can be made for."""


def parse_devices(text: str) -> DeviceSet:
    """`edgetpu:96`, `cpu:2`, `cuda:1`, `here:4`. Raises UnknownDevices."""
    found = _DEVICES.match(text)
    if found is None or found["kind"] not in KINDS or not 1 <= int(found["count"]) <= COUNT_MAX:
        kinds = "; ".join(f"{name}:N ({what})" for name, what in KINDS.items())
        raise UnknownDevices(f"{text!r} names no devices; expected KIND:N, N from 1 to {COUNT_MAX}: {kinds}.")
    return DeviceSet(kind=found["kind"], count=int(found["count"]))


def _edgetpu(model: PlannedModel, devices: int) -> Staged:
    return Staged(
        pass_s=physics.pass_s(model.weight_bytes, devices, EDGETPU, parameters=model.parameters),
        stages=devices,
        prompt_token_s=physics.OPS_PER_PARAMETER * model.parameters / EDGETPU.ops_per_s,
        streams=devices,
    )


def _cuda(model: PlannedModel) -> Batching:
    token_s = physics.OPS_PER_PARAMETER * model.parameters / CUDA.ops_per_s
    reading_s = physics.pass_s(model.stored_bytes, 1, CUDA, tokens=0.0, parameters=model.parameters)
    return Batching(
        step_fixed_s=reading_s,
        step_stream_s=token_s,
        prompt_fixed_s=reading_s,
        prompt_token_s=token_s,
        streams=CUDA_STREAMS,
    )


def _scaled(base: Batching, of: PlannedModel, model: PlannedModel, faster: float) -> Batching:
    """What stays the same for every conversation grows with the bytes read, the rest with the arithmetic."""
    reading = model.stored_bytes / of.stored_bytes / faster
    computing = model.parameters / of.parameters / faster
    return Batching(
        step_fixed_s=base.step_fixed_s * reading,
        step_stream_s=base.step_stream_s * computing,
        prompt_fixed_s=base.prompt_fixed_s * reading,
        prompt_token_s=base.prompt_token_s * computing,
        streams=base.streams,
    )
