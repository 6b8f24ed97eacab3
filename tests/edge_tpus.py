"""Edge TPUs for tests: trees of files as /sys shows them, and delegate libraries built from tests/*.c."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent
ALIVE = {
    "status": "ALIVE",
    "is_device_owned": "0",
    "device_owner": "0",
    "reset_count": "2",
    "driver_version": "1.2",
    "temp": "61300",
    "trip_point0_temp": "85000",
}


def build(folder: Path, source: str, *flags: str) -> Path:
    """A library of one of the sources beside this file."""
    library = folder / f"{source}{''.join(flags).replace('-D', '_')}.so"
    argv = ["gcc", "-O1", "-shared", "-fPIC", *flags, "-o", str(library), str(HERE / f"{source}.c")]
    subprocess.run(argv, check=True, capture_output=True)
    return library


def add_pcie(root: Path, entry: str, unique_id: str, **attributes: str) -> Path:
    """A chip of the apex driver; an attribute of "" is missing."""
    place = root / "sys/class/apex" / entry
    files = ALIVE | {"unique_id": unique_id, "pci_address": f"0000:0{entry[-1]}:00.0"} | attributes
    _write(place, files)
    device = root / "dev" / entry
    device.parent.mkdir(parents=True, exist_ok=True)
    device.touch()
    return place


def add_usb(root: Path, port: str, *, fresh: bool = True, device: int | None = None, speed: str = "5000") -> Path:
    """A stick, before or after it got its firmware."""
    place = root / "sys/bus/usb/devices" / port
    number = device if device is not None else int(port.partition("-")[2].replace(".", ""))
    vendor, product = ("1a6e", "089a") if fresh else ("18d1", "9302")
    bus = port.partition("-")[0]
    _write(
        place,
        {"idVendor": vendor, "idProduct": product, "busnum": bus, "devnum": str(number), "speed": speed},
    )
    file = root / "dev/bus/usb" / f"{int(bus):03d}" / f"{number:03d}"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    return place


def open_here(library: Path, device: str) -> tuple[ctypes.CDLL, int]:
    """Open a device in this process, as an engine's runtime does. Give both to `close_here`."""
    loaded = ctypes.CDLL(str(library))
    loaded.tflite_plugin_create_delegate.restype = ctypes.c_void_p
    names, values = (ctypes.c_char_p * 1)(b"device"), (ctypes.c_char_p * 1)(device.encode())
    return loaded, loaded.tflite_plugin_create_delegate(names, values, ctypes.c_size_t(1), None)


def close_here(loaded: ctypes.CDLL, delegate: int) -> None:
    """Let it go."""
    loaded.tflite_plugin_destroy_delegate(ctypes.c_void_p(delegate))


def _write(place: Path, files: Mapping[str, str]) -> None:
    place.mkdir(parents=True)
    for name, text in files.items():
        if text:
            (place / name).write_text(f"{text}\n")
