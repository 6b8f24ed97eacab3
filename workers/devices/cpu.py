"""What this machine's processor can do, as the kernel tells it, and the processor as a device."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from pathlib import Path

import msgspec

from reef.contracts.nodes import DeviceHealth
from workers.devices.base import Found, Opened, names_in, read, read_number

CPUINFO = Path("/proc/cpuinfo")
SENSORS = ("x86_pkg_temp", "cpu-thermal", "cpu_thermal", "soc-thermal", "soc_thermal", "cpu")
"""Names of thermal zones that mean the processor; other zones are boards, disks, radios."""
TRIPS_MAX = 16


class CpuConfig(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="cpu"):
    """Nothing is needed to open a processor."""

    root: str = "/"


def flags() -> frozenset[str]:
    """Instruction sets and other features of the first core; empty where the kernel does not tell."""
    return frozenset(_field("flags").split())


def identity() -> str:
    """Names the kind of processor: code compiled for one must not travel to another that can do less."""
    return f"{os.uname().machine} {_field('model name')} {' '.join(sorted(flags()))}"


def discover(root: Path) -> list[Found]:
    """The processor."""
    cores = len(os.sched_getaffinity(0))
    title = f"{_field('model name') or os.uname().machine}, {cores} cores"
    return [Found(kind="cpu", name="cpu", title=title, health=Cpu(CpuConfig(root=str(root))).health())]


class Cpu:
    """workers.devices.base.Kind of the processor: it is always there."""

    quarantines = False

    def __init__(self, config: CpuConfig) -> None:
        self._zone = next(_zones(Path(config.root)), None)

    def identity(self) -> str:
        """A processor has none that a program may read."""
        return ""

    def health(self) -> DeviceHealth:
        """Its temperature, where the kernel has a sensor."""
        if self._zone is None:
            return DeviceHealth()
        milli_celsius, limit = read_number(self._zone / "temp"), _limit(self._zone)
        return DeviceHealth(
            temperature_c=None if milli_celsius is None else milli_celsius / 1000,
            temperature_limit_c=None if limit is None else limit / 1000,
        )

    def open(self, remembered: str, taken: Collection[str]) -> Opened:
        """There is nothing to open."""
        return Opened("cpu")

    def confirm(self, opened: Opened) -> None:
        """There is nothing to look for."""


def _zones(root: Path) -> Iterator[Path]:
    place = root / "sys/class/thermal"
    for name in sorted(names_in(place)):
        if name.startswith("thermal_zone") and read(place / name / "type") in SENSORS:
            yield place / name


def _limit(zone: Path) -> int | None:
    """Where the kernel begins to slow the processor down."""
    for number in range(TRIPS_MAX):
        if read(zone / f"trip_point_{number}_type") == "passive":
            return read_number(zone / f"trip_point_{number}_temp")
    return None


def _field(name: str) -> str:
    try:
        lines = CPUINFO.read_text(encoding="utf-8", errors="replace").split("\n\n")[0].splitlines()
    except OSError:
        return ""
    return next((line.partition(":")[2].strip() for line in lines if line.startswith(name)), "")
