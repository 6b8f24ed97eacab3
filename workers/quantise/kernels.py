"""llama.cpp's own quantising code, called in the library that xllamacpp's wheel brings.

The wheel has no `llama-quantize` program and does not link `llama_model_quantize`, but it exports the function under
both, `ggml_quantize_chunk`, with its inverse for every storage type: the numbers are the same as that program's.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from workers.quantise.report import QuantiseError

F32, F16, BF16 = 0, 1, 30
TYPES = {
    "F32": F32, "F16": F16, "Q4_0": 2, "Q4_1": 3, "Q5_0": 6, "Q5_1": 7, "Q8_0": 8, "Q2_K": 10, "Q3_K": 11,
    "Q4_K": 12, "Q5_K": 13, "Q6_K": 14, "BF16": BF16,
}  # fmt: skip
NAMES = {number: name for name, number in TYPES.items()}

_INVERSE = {F16: "ggml_fp16_to_fp32_row", BF16: "ggml_bf16_to_fp32_row"} | {
    number: f"dequantize_row_{name[0].lower()}{name[1:]}" for name, number in TYPES.items() if name[0] == "Q"
}


class Kernels:
    """The functions, found once."""

    def __init__(self) -> None:
        """Raises QuantiseError where this build of the engine does not offer them."""
        try:
            import xllamacpp.xllamacpp as engine
        except ImportError as error:
            raise QuantiseError("xllamacpp is not installed: `pip install -r requirements.txt`.") from error
        try:
            self._library: Any = ctypes.CDLL(engine.__file__)
            self._quantise: Any = self._library.ggml_quantize_chunk
            self._row_bytes: Any = self._library.ggml_row_size
            self._inverse = {kind: getattr(self._library, name) for kind, name in _INVERSE.items()}
        except (OSError, AttributeError) as error:
            raise QuantiseError(
                f"This build of xllamacpp does not offer llama.cpp's quantising functions ({error}); "
                "use the version that requirements.txt names."
            ) from error
        size = ctypes.c_int64
        self._row_bytes.restype, self._row_bytes.argtypes = ctypes.c_size_t, [ctypes.c_int, size]
        self._quantise.restype = ctypes.c_size_t
        self._quantise.argtypes = [
            *(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
            *(size, size, size, ctypes.c_void_p),
        ]
        for function in self._inverse.values():
            function.restype, function.argtypes = None, [ctypes.c_void_p, ctypes.c_void_p, size]

    def row_bytes(self, kind: int, length: int) -> int:
        """Bytes of a row of so many numbers."""
        return int(self._row_bytes(kind, length))

    def to_floats(self, kind: int, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
        """So many numbers out of their stored form."""
        if kind == F32:
            return raw.view(np.float32)
        if kind not in self._inverse:
            raise QuantiseError(f"Numbers of type {NAMES.get(kind, kind)} cannot be read back, only used.")
        raw = np.ascontiguousarray(raw)
        out = np.empty(count, np.float32)
        self._inverse[kind](raw.ctypes.data, out.ctypes.data, count)
        return out

    def quantise(self, kind: int, rows: NDArray[np.float32]) -> NDArray[np.uint8]:
        """Rows in another storage type. The interpreter's lock is free meanwhile."""
        rows = np.ascontiguousarray(rows, np.float32)
        if kind == F32:
            return rows.reshape(-1).view(np.uint8)
        if not np.isfinite(rows).all():
            raise QuantiseError("The model holds numbers that are not finite: it is damaged.")
        out = np.empty(rows.shape[0] * self.row_bytes(kind, rows.shape[1]), np.uint8)
        self._quantise(kind, rows.ctypes.data, out.ctypes.data, 0, rows.shape[0], rows.shape[1], None)
        return out
