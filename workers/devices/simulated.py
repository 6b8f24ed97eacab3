"""A device that is not there, for tests and capacity runs: it says so, and does what a control file tells it.

The file is `simulated/<name>` in the data directory (`simulated/simulated-3` for simulated:3), a command a line:

    absent            opening fails, as when it was unplugged
    abort             the worker that holds it is ended as a driver ends it, within HEALTH_INTERVAL_S of the keeper
    temperature 71.5  what it says of itself; `limit 80` where it begins to slow down

Without the file it works. Read again each time: a test writes and removes it while the product runs.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

import msgspec

from reef.contracts.nodes import DeviceHealth
from workers.devices.base import DeviceFault, Opened, read

LABEL = "simulated"


class SimulatedConfig(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="simulated"):
    """Which one, and where its control file is."""

    name: str
    control: str


def control_file(data_dir: Path, name: str) -> Path:
    """Where a simulated device is told what to do."""
    return data_dir / "simulated" / name.replace(":", "-")


class Simulated:
    """workers.devices.base.Kind of a device that is not there."""

    quarantines = True

    def __init__(self, config: SimulatedConfig) -> None:
        self.config = config
        self._opened = False

    def identity(self) -> str:
        """Says that there is none."""
        return f"{LABEL} {self.config.name}"

    def health(self) -> DeviceHealth:
        """What the control file says; ends this process where it says `abort`."""
        told = self._told()
        if "abort" in told and self._opened:
            os.abort()
        temperature, limit = _number(told.get("temperature")), _number(told.get("limit"))
        return DeviceHealth(
            identity=self.identity(),
            temperature_c=temperature,
            temperature_limit_c=limit,
            throttled=None if temperature is None or limit is None else temperature >= limit,
            link=LABEL,
        )

    def open(self, remembered: str, taken: Collection[str]) -> Opened:
        """Works, unless the control file says otherwise."""
        if "absent" in self._told():
            raise DeviceFault(f"{self.config.name} is absent: its control file {self.config.control} says so.")
        self._opened = True
        return Opened(self.config.name, self.identity())

    def confirm(self, opened: Opened) -> None:
        """There is nothing to hold."""

    def _told(self) -> dict[str, str]:
        lines = (line.partition(" ") for line in read(Path(self.config.control)).splitlines())
        return {command: argument.strip() for command, _, argument in lines}


def _number(text: str | None) -> float | None:
    try:
        return float(text) if text else None
    except ValueError:
        return None
