"""Whether two networks say the same: cosine agreement of their outputs on the same inputs, and calls a second."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from reef.ports import Progress
from workers.quantise.report import CALIBRATION_SAMPLES_MAX, Measured, QuantiseError, Report, part_of

Sample = dict[str, NDArray[Any]]
"""One input of a network, by the inputs' names, without a batch of its own."""
Run = Callable[[Sample], Sequence[NDArray[Any]]]

RANDOM_SAMPLES = 8
TIMED_S = 1.0
TIMED_MAX = 50


WHOLE, DYNAMIC = "int8", "int8-dynamic"
TARGETS = (DYNAMIC, WHOLE)
"""Weights in int8 and sums in floats, or everything in int8, for which the ranges must be learnt from examples."""


class InputSpec:
    """What a network takes under a name."""

    def __init__(self, shape: Sequence[int], dtype: Any) -> None:
        """Sizes that are left open (below 1) are taken as 1."""
        self.shape = tuple(size if size > 0 else 1 for size in shape)
        self.dtype = np.dtype(dtype)


class Network(Protocol):
    """A file in its runtime."""

    @property
    def inputs(self) -> Mapping[str, InputSpec]:
        """What it takes, by name."""

    def run(self, sample: Sample) -> Sequence[NDArray[Any]]:
        """Its outputs, as floats where they are numbers."""


def make_and_compare(
    source: Path,
    target: Path,
    calibration: Path | None,
    progress: Progress,
    *,
    to: str,
    open_network: Callable[[Path], Network],
    make: Callable[[Path, Sequence[Sample]], None],
) -> Report:
    """Have `make` write the new file, run both on the same inputs, and only then give it its name.

    Raises QuantiseError; then nothing is left behind.
    """
    if to not in TARGETS:
        raise QuantiseError(f"A {source.suffix} model can become one of: {', '.join(TARGETS)}. {to!r} is none of them.")
    network = open_network(source)
    if to == WHOLE and calibration is None:
        raise QuantiseError(
            "int8 throughout needs examples of real input, from which the ranges are learnt: --calibration FILE.npz "
            f"with arrays {', '.join(network.inputs)}, the first axis counting the examples. --to {DYNAMIC} needs none."
        )
    samples = read_samples(calibration, network.inputs) if calibration else random_samples(network.inputs)
    part = part_of(target)
    try:
        progress(0.1, f"Quantising {source.name}")
        make(part, samples)
        progress(0.8, f"Comparing {source.name} with {target.name}")
        made = open_network(part)
        quality = agreement(network.run, made.run, samples)
        report = Report(
            before=measured(source, network.run, samples[0], 1.0),
            after=measured(part, made.run, samples[0], quality),
            speed_unit="calls/s",
            quality_name="cosine of the outputs",
            notes=() if calibration else ("Compared on random input: give --calibration for what it does on yours.",),
        )
        part.replace(target)
    except OSError as error:
        raise QuantiseError(f"{target} cannot be written: {error.strerror}.") from error
    finally:
        part.unlink(missing_ok=True)
    return report


def read_samples(path: Path, inputs: Mapping[str, InputSpec]) -> list[Sample]:
    """Samples of an .npz file: an array for each input, whose first axis counts the samples. Raises QuantiseError."""
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except (OSError, ValueError) as error:
        raise QuantiseError(f"{path} is no .npz file of arrays: {error}") from error
    if len(arrays) == 1 and len(inputs) == 1:
        arrays = dict(zip(inputs, arrays.values(), strict=True))
    if set(arrays) != set(inputs):
        raise QuantiseError(f"{path} has arrays {sorted(arrays)}; the model's inputs are {sorted(inputs)}.")
    count = min(len(array) for array in arrays.values())
    samples = []
    for place in range(min(count, CALIBRATION_SAMPLES_MAX)):
        try:
            samples.append(
                {name: arrays[name][place].reshape(spec.shape).astype(spec.dtype) for name, spec in inputs.items()}
            )
        except ValueError:
            shapes = {name: spec.shape for name, spec in inputs.items()}
            raise QuantiseError(f"{path}: sample {place} does not fit the model's inputs {shapes}.") from None
    if not samples:
        raise QuantiseError(f"{path} holds no sample.")
    return samples


def random_samples(inputs: Mapping[str, InputSpec]) -> list[Sample]:
    """Inputs that mean nothing, where nobody has better ones: noise, or zeros and ones for whole numbers."""
    random = np.random.default_rng(0)
    return [
        {
            name: random.normal(size=spec.shape).astype(spec.dtype)
            if spec.dtype.kind == "f"
            else random.integers(0, 2, spec.shape).astype(spec.dtype)
            for name, spec in inputs.items()
        }
        for _ in range(RANDOM_SAMPLES)
    ]


def agreement(one: Run, other: Run, samples: Sequence[Sample]) -> float:
    """Mean cosine of the outputs; an output of zeros agrees with nothing but itself."""
    found = []
    for sample in samples:
        for left, right in zip(one(sample), other(sample), strict=True):
            found.append(_cosine(left.astype(np.float64).reshape(-1), right.astype(np.float64).reshape(-1)))
    return round(float(np.mean(found)), 5)


def measured(path: Path, run: Run, sample: Sample, quality: float) -> Measured:
    """Size, calls a second and the agreement that was found."""
    run(sample)
    took: list[float] = []
    while len(took) < TIMED_MAX and sum(took) < TIMED_S:
        began = time.perf_counter()
        run(sample)
        took.append(time.perf_counter() - began)
    return Measured(size_bytes=path.stat().st_size, speed=round(1 / float(np.median(took)), 1), quality=quality)


def _cosine(left: NDArray[np.float64], right: NDArray[np.float64]) -> float:
    norm = float(np.linalg.norm(left) * np.linalg.norm(right))
    if norm == 0.0:
        return 1.0 if np.array_equal(left, right) else 0.0
    return float(left @ right) / norm
