"""A .tflite model in int8, through Google's LiteRT Quantizer (package litert-quantizer, which only this needs)."""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reef.models.tflite import read_tflite
from reef.ports import Progress
from workers.quantise.compare import WHOLE, InputSpec, Sample, make_and_compare
from workers.quantise.report import QuantiseError, Report, missing

PACKAGES = "litert-quantizer"


def quantise_tflite(source: Path, target: Path, to: str, calibration: Path | None, progress: Progress) -> Report:
    """Write `target` and compare the two. Raises QuantiseError and ModelError; then nothing is left behind."""
    said = read_tflite(source).quantisation
    if said != "float32":
        raise QuantiseError(f"{source} is {said} already; quantising begins with float32 weights.")
    return make_and_compare(
        source,
        target,
        calibration,
        progress,
        to=to,
        open_network=Network,
        make=lambda part, samples: _quantise(source, part, to, samples),
    )


def _quantise(source: Path, part: Path, to: str, samples: Sequence[Sample]) -> None:
    try:
        from litert_quantizer import quantizer, recipe
    except ImportError:
        raise missing(PACKAGES, "Quantising .tflite models") from None
    try:
        work = quantizer.Quantizer(str(source))
        # it warns that looking at every tensor takes memory, and draws bars of its own
        with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore", UserWarning)
            seen = None
            if to == WHOLE:
                network = Network(source)
                work.load_quantization_recipe(recipe.static_wi8_ai8())
                seen = work.calibrate({network.signature: samples}, num_threads=network.threads)
            else:
                work.load_quantization_recipe(recipe.dynamic_wi8_afp32())
            result = work.quantize(seen, enable_progress_bar=False, enable_progress_report=False)
        part.write_bytes(bytes(result.quantized_model))
    except (ValueError, RuntimeError, KeyError, TypeError) as error:
        raise QuantiseError(f"The LiteRT quantizer cannot do {source}: {str(error)[:500]}") from error


class Network:
    """A file in the CPU runtime. Floats in, floats out: what is stored as int8 is taken back."""

    def __init__(self, path: Path) -> None:
        """Raises QuantiseError where the runtime does not take it."""
        from ai_edge_litert.interpreter import Interpreter

        self.threads = len(os.sched_getaffinity(0))
        try:
            interpreter = Interpreter(str(path), num_threads=self.threads)
            signatures = interpreter.get_signature_list()
            if not signatures:
                raise QuantiseError(f"{path} has no signature, by which its inputs could be named.")
            self.signature = next(iter(signatures))
            self._runner: Any = interpreter.get_signature_runner(self.signature)
            self._inputs: Mapping[str, Mapping[str, Any]] = self._runner.get_input_details()
            self._outputs: Mapping[str, Mapping[str, Any]] = self._runner.get_output_details()
        except (ValueError, RuntimeError) as error:
            raise QuantiseError(f"The runtime cannot use {path}: {error}") from error
        self._interpreter = interpreter
        self.inputs = {name: InputSpec(one["shape"], one["dtype"]) for name, one in self._inputs.items()}

    def run(self, sample: Sample) -> list[NDArray[Any]]:
        """The outputs in the order of their names."""
        given = {name: _stored(value, self._inputs[name]) for name, value in sample.items()}
        said = self._runner(**given)
        return [_real(said[name], self._outputs[name]) for name in sorted(said)]


def _stored(value: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    scale, zero = detail["quantization"]
    if not scale or value.dtype.kind != "f":
        return value.astype(detail["dtype"])
    limits = np.iinfo(detail["dtype"])
    stored: NDArray[Any] = np.clip(np.rint(value / scale + zero), limits.min, limits.max).astype(detail["dtype"])
    return stored


def _real(value: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    scale, zero = detail["quantization"]
    return (value.astype(np.float32) - zero) * scale if scale else value
