"""NVIDIA GPUs: found through the driver's files in /proc, their health asked of nvidia-smi where that is installed.

A GPU serves where a CUDA build of llama.cpp is installed; the wheel on PyPI is built for CPUs.
"""

from __future__ import annotations

import importlib.util
import mmap
import shutil
import subprocess
from collections.abc import Collection, Mapping
from pathlib import Path

import msgspec

from reef.contracts.nodes import DeviceHealth
from workers.devices.base import DeviceFault, Found, Opened, names_in, read

ASK_TIMEOUT_S = 5.0
FIELDS = (
    "uuid",
    "temperature.gpu",
    "memory.used",
    "memory.total",
    "clocks_throttle_reasons.sw_thermal_slowdown",
    "clocks_throttle_reasons.hw_thermal_slowdown",
)
MIB = 1 << 20
CUDA_MARK = b"ggml_cuda_init"
"""A function that is in the library of a CUDA build only."""
NO_BUILD = (
    "no CUDA build of an engine is installed: the llama engine (xllamacpp) has wheels for CUDA on an index of its own, "
    "see docs/operations.md"
)


class CudaConfig(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="cuda"):
    """What is needed to use one."""

    index: int
    root: str = "/"


class Gpu(msgspec.Struct, frozen=True):
    """One GPU, as the driver's files tell it. Numbered in the order of the PCI bus, as CUDA is told to."""

    address: str
    uuid: str
    model: str


def gpus(root: Path) -> list[Gpu]:
    """The GPUs that the driver has."""
    place = root / "proc/driver/nvidia/gpus"
    found = []
    for address in sorted(names_in(place)):
        fields = _fields(read(place / address / "information"))
        found.append(Gpu(address, fields.get("GPU UUID", ""), fields.get("Model", "NVIDIA GPU")))
    return found


def discover(root: Path) -> list[Found]:
    """All GPUs of this machine, by file reads only."""
    why_not = "" if engine_built() else NO_BUILD
    return [
        Found(
            kind="cuda",
            name=f"cuda:{index}",
            title=gpu.model,
            identity=gpu.uuid,
            path=f"/proc/driver/nvidia/gpus/{gpu.address}",
            health=DeviceHealth(identity=gpu.uuid, link=f"PCIe {gpu.address}"),
            problem=why_not,
        )
        for index, gpu in enumerate(gpus(root))
    ]


def engine_built() -> bool:
    """Whether the installed llama engine was built for CUDA. Reads the library, loads nothing."""
    spec = importlib.util.find_spec("xllamacpp")
    folders = spec.submodule_search_locations if spec is not None else None
    return any(_has_mark(library) for folder in folders or () for library in sorted(Path(folder).glob("*.so")))


def _has_mark(library: Path) -> bool:
    try:
        with library.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(CUDA_MARK) >= 0
    except (OSError, ValueError):
        return False


def environment(index: int) -> dict[str, str]:
    """A worker sees its own GPU only, numbered as the PCI bus numbers them."""
    return {"CUDA_DEVICE_ORDER": "PCI_BUS_ID", "CUDA_VISIBLE_DEVICES": str(index)}


class Cuda:
    """workers.devices.base.Kind of one GPU."""

    quarantines = True

    def __init__(self, config: CudaConfig) -> None:
        self.config = config
        self._smi = shutil.which("nvidia-smi")

    def identity(self) -> str:
        """The GPU's UUID."""
        gpu = self._gpu()
        return gpu.uuid if gpu is not None else ""

    def health(self) -> DeviceHealth:
        """What nvidia-smi says; without it only what the files say."""
        gpu = self._gpu()
        if gpu is None:
            return DeviceHealth()
        known = DeviceHealth(identity=gpu.uuid, link=f"PCIe {gpu.address}")
        if self._smi is None or not gpu.uuid:
            return known
        argv = [self._smi, f"--id={gpu.uuid}", f"--query-gpu={','.join(FIELDS)}", "--format=csv,noheader,nounits"]
        try:
            told = subprocess.run(argv, capture_output=True, text=True, timeout=ASK_TIMEOUT_S, check=True).stdout
        except (OSError, subprocess.SubprocessError):
            return known
        return with_told(known, told)

    def open(self, remembered: str, taken: Collection[str]) -> Opened:
        """Look whether the GPU and an engine for it are there; the engine opens it."""
        gpu = self._gpu()
        if gpu is None:
            found = ", ".join(f"cuda:{n} {gpu.model}" for n, gpu in enumerate(gpus(Path(self.config.root)))) or "none"
            raise DeviceFault(
                f"There is no cuda:{self.config.index}; the NVIDIA driver has: {found}. Is the driver loaded "
                "(/proc/driver/nvidia)?"
            )
        if remembered and gpu.uuid and gpu.uuid != remembered:
            raise DeviceFault(
                f"cuda:{self.config.index} is now {gpu.model} {gpu.uuid}, and was {remembered}. If that is meant: "
                f"coral-reef devices --forget cuda:{self.config.index}"
            )
        if not engine_built():
            raise DeviceFault(f"cuda:{self.config.index} ({gpu.model}) cannot serve: {NO_BUILD}.")
        return Opened(f"cuda:{self.config.index}", gpu.uuid)

    def confirm(self, opened: Opened) -> None:
        """CUDA_VISIBLE_DEVICES leaves no other GPU to take."""

    def _gpu(self) -> Gpu | None:
        found = gpus(Path(self.config.root))
        return found[self.config.index] if self.config.index < len(found) else None


def with_told(known: DeviceHealth, told: str) -> DeviceHealth:
    """With what one line of nvidia-smi adds: a field it does not know is `[N/A]` there and None here."""
    parts = [part.strip() for part in told.strip().split(",")]
    if len(parts) != len(FIELDS):
        return known
    temperature, used, total = (_number(part) for part in parts[1:4])
    slowed = [part for part in parts[4:6] if part in ("Active", "Not Active")]
    return msgspec.structs.replace(
        known,
        temperature_c=temperature,
        throttled="Active" in slowed if slowed else None,
        memory_used_bytes=None if used is None else int(used * MIB),
        memory_total_bytes=None if total is None else int(total * MIB),
    )


def _number(text: str) -> float | None:
    return float(text) if text.replace(".", "", 1).isdigit() else None


def _fields(text: str) -> Mapping[str, str]:
    pairs = (line.partition(":") for line in text.splitlines())
    return {name.strip(): value.strip() for name, colon, value in pairs if colon}
