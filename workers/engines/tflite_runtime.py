"""The one place that makes TFLite interpreters: ai-edge-litert on CPU cores, tflite-runtime on an Edge TPU.

The same code otherwise. tflite-runtime is 9 to 18 times slower on a CPU and computes some files wrongly there, so it is
used with Google's delegate only. An Edge TPU is opened once for the whole process, by the string queues.yaml gives it,
and stays open: what cannot be opened is known when the worker starts, not when the first job comes.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from reef.ports import EngineError, TensorSpec
from reef.topology import Device
from workers.devices.base import DeviceFault

log = logging.getLogger(__name__)

CPU_RUNTIME = "ai_edge_litert.interpreter"
TPU_RUNTIMES = ("tflite_runtime.interpreter", CPU_RUNTIME)
"""The second where the first has no wheel (Python 3.12); the delegate's entry points are the same."""


class Runtime:
    """Makes interpreters for one device. Owns it from here on."""

    def __init__(self, device: Device, library: str, threads: int = 0) -> None:
        """`threads` 0: as many as the device has cores. Raises DeviceFault where the device cannot be opened."""
        if device.kind not in ("cpu", "edgetpu"):
            raise EngineError(f"TFLite models run on cpu, usb:N and pci:N; {device.name} is a {device.kind} device.")
        self.device = device
        self.compiled = device.kind == "edgetpu"
        """Whether it needs files of edgetpu_compiler."""
        self._threads = threads or len(device.cores) or len(os.sched_getaffinity(0))
        self._module = _import(TPU_RUNTIMES if self.compiled else (CPU_RUNTIME,))
        self._delegate: Any = _open(self._module, device, library) if self.compiled else None

    def load(self, path: Path) -> LoadedModel:
        """A model, ready to run. Raises EngineError where the file or the device does not allow it."""
        options: dict[str, Any] = {"num_threads": 1 if self.compiled else self._threads}
        if self._delegate is not None:
            options["experimental_delegates"] = [self._delegate]
        try:
            interpreter = self._module.Interpreter(str(path), **options)
            interpreter.allocate_tensors()
        except (RuntimeError, ValueError, OSError) as error:
            raise EngineError(f"{path} cannot be loaded on {self.device.name}: {_plain(error)}.") from error
        return LoadedModel(interpreter, path)

    def close(self) -> None:
        """Let the device go, once the interpreters are gone."""
        self._delegate = None


class LoadedModel:
    """An interpreter that is ready to run. For one thread at a time."""

    def __init__(self, interpreter: Any, path: Path) -> None:
        self._interpreter, self.path = interpreter, path
        self.size_bytes = path.stat().st_size
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
        self._in = [detail["index"] for detail in inputs]
        self._out = [detail["index"] for detail in outputs]
        self.inputs = tuple(_spec(detail) for detail in inputs)
        self.outputs = tuple(_spec(detail) for detail in outputs)

    def run(self, tensors: list[NDArray[Any]]) -> list[NDArray[Any]]:
        """One inference. Raises EngineError where the runtime or the device fails."""
        try:
            for index, tensor in zip(self._in, tensors, strict=True):
                self._interpreter.set_tensor(index, tensor)
            self._interpreter.invoke()
            return [self._interpreter.get_tensor(index) for index in self._out]
        except (RuntimeError, ValueError) as error:
            raise EngineError(f"{self.path.name} failed on its device: {_plain(error)}.") from error


class Identity(msgspec.Struct, frozen=True):
    """A file as it was when it was loaded: another one under the same name is another model."""

    path: Path
    mtime_ns: int
    size_bytes: int


def identify(path: Path) -> Identity:
    """The file of that path now. Raises EngineError where it is gone."""
    try:
        stat = path.stat()
    except OSError as error:
        raise EngineError(f"{path} cannot be read ({error}); put the model there again.") from error
    return Identity(path, stat.st_mtime_ns, stat.st_size)


def _import(names: tuple[str, ...]) -> ModuleType:
    for name in names:
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        if name != names[0]:
            log.warning("%s is not installed; the Edge TPU is used through %s", names[0], name)
        return module
    raise EngineError(f"{names[0].partition('.')[0].replace('_', '-')} is not installed: run `make install`.")


def _open(module: ModuleType, device: Device, library: str) -> Any:
    """The delegate of exactly this device. A bare "usb" would take whichever comes first."""
    try:
        ctypes.CDLL(library)  # load_delegate says less when there is no such library
    except OSError as error:
        raise DeviceFault(
            f"The Edge TPU {device.name} needs the library {library}, which cannot be loaded ({error}). Install "
            "libedgetpu1-std, or name the file with REEF_EDGETPU_LIBRARY."
        ) from error
    try:
        return module.load_delegate(library, {"device": device.name})
    except (ValueError, RuntimeError) as error:
        raise DeviceFault(
            f"The Edge TPU {device.name} cannot be opened: {_plain(error)}. The library says no more; the device is "
            "absent, busy in another process, or stuck. `coral-reef doctor` lists what is attached."
        ) from error


def _spec(detail: dict[str, Any]) -> TensorSpec:
    scale, zero_point = detail["quantization"]
    return TensorSpec(
        name=str(detail["name"]),
        shape=tuple(int(size) for size in detail["shape"]),
        dtype=np.dtype(detail["dtype"]).name,
        scale=float(scale),
        zero_point=int(zero_point),
    )


def _plain(error: BaseException) -> str:
    return " ".join(str(error).split()).rstrip(".")
