"""Google's Edge TPUs (Coral) on PCIe and USB: found by reading /sys, opened once in a process that may die of it.

The numbers of libedgetpu (`usb:0`, `pci:1`) are places in a list that it makes anew each time: on PCIe in the order in
which the kernel lists a directory, on USB with the sticks that were not opened yet first. So a number says nothing
about tomorrow. A name of queues.yaml is bound to a chip (its own id, or the USB port) when it is first used, and from
then on the number is looked for that means this chip. Nothing here runs a model.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Literal

import msgspec

from reef.contracts.nodes import DeviceHealth
from workers.devices.base import (
    DeviceFault,
    Found,
    Opened,
    files_of,
    holder,
    names_in,
    process_name,
    read,
    read_number,
)
from workers.devices.wire import Question, Trial

Bus = Literal["pci", "usb"]
TITLES = {"pci": "Coral Edge TPU on PCIe", "usb": "Coral USB Accelerator"}
USB_FRESH = ("1a6e", "089a")
"""Ids of a stick that was not opened since it got power: its firmware comes with the first opening."""
USB_RUNNING = ("18d1", "9302")
USB_SPEEDS = {"480": "USB 2, 480 Mbit/s", "5000": "USB 3, 5000 Mbit/s", "10000": "USB 3, 10000 Mbit/s"}
TRIALS_MAX = 16
"""Openings in search of one chip."""

Try = Callable[[Question], Trial]
"""Opens a device in a process of its own and tells what came of it: workers/devices/first_open.py."""


class EdgeTpuConfig(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="edgetpu"):
    """What is needed to open one."""

    name: str
    bus: Bus
    index: int
    library: str
    """The delegate: a name the dynamic linker finds, or a path."""
    root: str = "/"
    """Where sys and dev are."""


class Chip(msgspec.Struct, frozen=True, kw_only=True):
    """One Edge TPU, as /sys tells it."""

    bus: Bus
    entry: str
    """Name of its directory: apex_0, or the port path 2-1.4. libedgetpu's path of it ends with this."""
    identity: str
    directory: Path
    device_file: Path
    fresh: bool = False
    """A USB stick without its firmware."""


def chips(root: Path, bus: Bus) -> list[Chip]:
    """The Edge TPUs on a bus, in the order in which libedgetpu is expected to number them now."""
    return list(_on_pcie(root) if bus == "pci" else _on_usb(root))


def _on_pcie(root: Path) -> Iterator[Chip]:
    place = root / "sys/class/apex"
    entries = [name for name in names_in(place) if name.startswith("apex_")]
    ids = [read(place / entry / "unique_id") for entry in entries]
    for entry, own_id in zip(entries, ids, strict=True):
        # a chip without an id of its own, or with another one's, is known by its slot
        known = own_id if own_id.strip("0") and ids.count(own_id) == 1 else read(place / entry / "pci_address")
        yield Chip(bus="pci", entry=entry, identity=known, directory=place / entry, device_file=root / "dev" / entry)


def _on_usb(root: Path) -> list[Chip]:
    place = root / "sys/bus/usb/devices"
    found = []
    for entry in names_in(place):
        ids = (read(place / entry / "idVendor"), read(place / entry / "idProduct"))
        if ids not in (USB_FRESH, USB_RUNNING):
            continue
        numbers = (read_number(place / entry / "busnum") or 0, read_number(place / entry / "devnum") or 0)
        file = root / "dev/bus/usb" / f"{numbers[0]:03d}" / f"{numbers[1]:03d}"
        chip = Chip(
            bus="usb", entry=entry, identity=entry, directory=place / entry, device_file=file, fresh=ids == USB_FRESH
        )
        found.append(chip)
    return sorted(found, key=lambda chip: (not chip.fresh, _port(chip)))


def _port(chip: Chip) -> tuple[int, ...]:
    """The port path as numbers: 1-10 comes after 1-2."""
    return tuple(int(part) for part in chip.entry.replace("-", ".").split(".") if part.isdigit())


def discover(root: Path) -> list[Found]:
    """All Edge TPUs of this machine, by file reads only."""
    found = []
    for bus in ("pci", "usb"):
        for index, chip in enumerate(_by_name(chips(root, bus))):
            found.append(
                Found(
                    kind="edgetpu",
                    name=f"{bus}:{index}",
                    title=TITLES[bus],
                    identity=chip.identity,
                    path=str(chip.device_file),
                    health=health_of(chip, anybody=True),
                    problem=problem(chip),
                )
            )
    return found


def _by_name(of_a_bus: Sequence[Chip]) -> list[Chip]:
    """The chips in the order in which names are first given: libedgetpu's on PCIe, that of the ports on USB.

    Opening a stick changes libedgetpu's order, so on USB it would depend on who came first.
    """
    return sorted(of_a_bus, key=_port) if of_a_bus and of_a_bus[0].bus == "usb" else list(of_a_bus)


def health_of(chip: Chip, *, anybody: bool = False) -> DeviceHealth:
    """What the files say of a chip. `anybody`: look through all processes for who holds a USB stick."""
    if chip.bus == "usb":
        held = str(chip.device_file) in files_of(os.getpid())
        owner = os.getpid() if held else holder(str(chip.device_file)) if anybody else None
        speed = read(chip.directory / "speed")
        link = USB_SPEEDS.get(speed, f"USB, {speed} Mbit/s" if speed else "USB")
        note = "not opened since it got power" if chip.fresh else ""
        return DeviceHealth(identity=chip.identity, owner_pid=owner, link=f"{link}, port {chip.entry}", note=note)
    milli_celsius = read_number(chip.directory / "temp")
    limit = read_number(chip.directory / "trip_point0_temp")
    known = milli_celsius is not None and limit is not None
    address = read(chip.directory / "pci_address")
    status, version = read(chip.directory / "status"), read(chip.directory / "driver_version")
    return DeviceHealth(
        identity=chip.identity,
        temperature_c=None if milli_celsius is None else milli_celsius / 1000,
        temperature_limit_c=None if limit is None else limit / 1000,
        # the driver slows the chip down at this point and tells it nowhere else but in the kernel's log
        throttled=milli_celsius >= limit if known else None,  # type: ignore[operator]
        owner_pid=_owner(chip),
        resets=read_number(chip.directory / "reset_count"),
        link=f"PCIe {address}" if address else "PCIe",
        note=", ".join(part for part in (status, f"driver {version}" if version else "") if part),
    )


def _owner(chip: Chip) -> int | None:
    """The process that holds a chip on PCIe, as its driver tells."""
    owner = read_number(chip.directory / "device_owner")
    return owner if owner and read_number(chip.directory / "is_device_owned") else None


def problem(chip: Chip) -> str:
    """Why this chip could not be opened now, as far as files tell."""
    status = read(chip.directory / "status") if chip.bus == "pci" else ""
    if status not in ("", "ALIVE"):
        return f"its driver says {status}: reload the driver, or switch the machine off and on"
    if not chip.device_file.exists():
        return f"{chip.device_file} is missing: is the driver loaded, is the device passed into this container?"
    if not os.access(chip.device_file, os.R_OK | os.W_OK):
        group = "apex" if chip.bus == "pci" else "plugdev"
        return f"this user may not open {chip.device_file}: add a udev rule and the user to group {group}"
    return ""


class EdgeTpu:
    """workers.devices.base.Kind of one Edge TPU."""

    quarantines = True

    def __init__(self, config: EdgeTpuConfig, attempt: Try) -> None:
        self.config, self._try, self._root = config, attempt, Path(config.root)
        self._known = ""

    def identity(self) -> str:
        """The chip's own id, or the port of the stick; empty before it is known which one the name stands for."""
        return self._known

    def health(self) -> DeviceHealth:
        """What the files of its chip say."""
        chip = self._chip(self._known)
        return health_of(chip) if chip is not None else DeviceHealth(identity=self._known)

    def open(self, remembered: str, taken: Collection[str]) -> Opened:
        """See workers.devices.base.Kind."""
        meant = self._meant(remembered, taken)
        self._known = remembered or (meant.identity if meant else "")
        if meant is None:
            # no file tells of any Edge TPU on this bus; the library has the last word
            self._raise_if(self._try(self._question(self.config.name, None)).problem)
            return Opened(self.config.name)
        self._check_free(meant)
        name = self._find(meant)
        if meant.fresh:
            # it has its firmware now and a new place in libedgetpu's list
            name = self._find(self._still_there(meant))
        return Opened(name, meant.identity)

    def confirm(self, opened: Opened) -> None:
        """See workers.devices.base.Kind."""
        mine = self._held_by(os.getpid())
        if opened.identity and mine and opened.identity not in mine:
            raise DeviceFault(
                f"{self.config.name} is the Edge TPU {opened.identity}, but {opened.name} opened {', '.join(mine)}: "
                "the order of the devices has just changed. The worker looks for it again."
            )

    def _meant(self, remembered: str, taken: Collection[str]) -> Chip | None:
        """The chip this name stands for; None where no file tells of any."""
        all_chips = _by_name(chips(self._root, self.config.bus))
        seen = ", ".join(chip.identity for chip in all_chips) or "none"
        if remembered:
            chip = self._chip(remembered)
            if chip is None:
                raise DeviceFault(
                    f"{self.config.name} is the Edge TPU {remembered}, which is not there (on {self.config.bus}: "
                    f"{seen}). Plug it in again, or let the name go: coral-reef devices --forget {self.config.name}"
                )
            return chip
        if not all_chips:
            return None
        by_number = all_chips[self.config.index : self.config.index + 1]
        free = [chip for chip in [*by_number, *all_chips] if chip.identity not in taken]
        if not free or self.config.index >= len(all_chips):
            raise DeviceFault(
                f"There is no {self.config.name}: {len(all_chips)} Edge TPUs are found on {self.config.bus} ({seen}), "
                "numbered from 0, and each name stands for one. Correct the devices in queues.yaml."
            )
        return free[0]

    def _check_free(self, chip: Chip) -> None:
        if found := problem(chip):
            raise DeviceFault(f"{self.config.name} cannot be opened: {found}.")
        owner = _owner(chip) if chip.bus == "pci" else None
        if owner is not None and owner != os.getpid():
            raise DeviceFault(
                f"{self.config.name} ({chip.entry}) belongs to {process_name(owner)}: an Edge TPU serves one process."
            )

    def _find(self, meant: Chip) -> str:
        """The name under which libedgetpu opens this chip now."""
        order = chips(self._root, self.config.bus)
        place = next((n for n, chip in enumerate(order) if chip.entry == meant.entry), 0)
        numbers = [place, *(n for n in range(len(order)) if n != place)][:TRIALS_MAX]
        refused, other = "", []
        for number in numbers:
            trial = self._try(self._question(f"{self.config.bus}:{number}", meant))
            if trial.problem:
                refused = refused or trial.problem
                if trial.exact:
                    break
            elif not trial.held or meant.entry in trial.held:
                # nothing tells which one it holds: then the expected place must do
                return trial.device
            elif chips(self._root, self.config.bus) != order:
                # a stick got its firmware, and all of them new numbers: from the start, which happens once a stick
                return self._find(meant)
            else:
                other.append(f"{trial.device} is {', '.join(trial.held)}")
        self._raise_if(refused)
        raise DeviceFault(
            f"No number of libedgetpu opens the Edge TPU {meant.identity} that {self.config.name} stands for: "
            f"{'; '.join(other)}. Unplug it and plug it in again."
        )

    def _question(self, device: str, meant: Chip | None) -> Question:
        return Question(
            library=self.config.library,
            bus=self.config.bus,
            device=device,
            meant=meant.entry if meant else "",
            root=self.config.root,
        )

    def _raise_if(self, refused: str) -> None:
        if refused:
            raise DeviceFault(f"{self.config.name} cannot be opened: {refused}")

    def _still_there(self, meant: Chip) -> Chip:
        chip = self._chip(meant.identity)
        if chip is None:
            raise DeviceFault(f"{self.config.name} went away when it was opened for the first time: check its power.")
        return chip

    def _chip(self, identity: str) -> Chip | None:
        return next((c for c in chips(self._root, self.config.bus) if c.identity == identity), None)

    def _held_by(self, pid: int) -> list[str]:
        return [chip.identity for chip in held(self._root, self.config.bus, pid)]


def held(root: Path, bus: Bus, pid: int) -> list[Chip]:
    """The chips that a process holds: by its open files, which a container tells rightly too, or by the driver."""
    files = files_of(pid)
    return [
        chip for chip in chips(root, bus) if str(chip.device_file) in files or (bus == "pci" and _owner(chip) == pid)
    ]
