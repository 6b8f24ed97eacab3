"""An .onnx model in int8, through ONNX Runtime's own quantizer (onnx and onnxruntime, which only this needs)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from reef.models.formats import read_facts
from reef.ports import Progress
from workers.quantise.compare import WHOLE, InputSpec, Sample, make_and_compare
from workers.quantise.report import QuantiseError, Report, missing

PACKAGES = "'onnx<1.19' onnxruntime"
"""onnx from 1.19 on needs an ml_dtypes that other packages here do not take."""
_TYPES = {
    "tensor(float)": np.float32, "tensor(double)": np.float64, "tensor(float16)": np.float16,
    "tensor(int64)": np.int64, "tensor(int32)": np.int32, "tensor(int8)": np.int8, "tensor(uint8)": np.uint8,
    "tensor(bool)": np.bool_,
}  # fmt: skip


def quantise_onnx(source: Path, target: Path, to: str, calibration: Path | None, progress: Progress) -> Report:
    """Write `target` and compare the two. Raises QuantiseError and ModelError; then nothing is left behind."""
    read_facts(source)
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
        import onnx
        from onnxruntime import quantization
    except ImportError:
        raise missing(PACKAGES, "Quantising .onnx models") from None

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._left = iter(samples)

        def get_next(self) -> Sample | None:
            return next(self._left, None)

    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)  # it advises on pre-processing at every call
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            if to == WHOLE:
                quantization.quantize_static(
                    source, part, Reader(), per_channel=True, quant_format=quantization.QuantFormat.QDQ
                )
            else:
                quantization.quantize_dynamic(source, part, per_channel=True)
    except (ValueError, RuntimeError, TypeError, onnx.checker.ValidationError) as error:
        raise QuantiseError(f"ONNX Runtime cannot quantise {source}: {str(error)[:500]}") from error
    finally:
        root.setLevel(level)


class Network:
    """A file in ONNX Runtime on the CPU."""

    def __init__(self, path: Path) -> None:
        """Raises QuantiseError where the runtime is not here or does not take the file."""
        try:
            import onnxruntime
        except ImportError:
            raise missing(PACKAGES, "Quantising .onnx models") from None
        try:
            self._session: Any = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        except Exception as error:
            raise QuantiseError(f"ONNX Runtime cannot use {path}: {str(error)[:300]}") from error
        self.inputs = {
            one.name: InputSpec(
                [size if isinstance(size, int) else 1 for size in one.shape], _TYPES.get(one.type, np.float32)
            )
            for one in self._session.get_inputs()
        }

    def run(self, sample: Sample) -> list[NDArray[Any]]:
        """The outputs in the model's order."""
        return list(self._session.run(None, sample))
