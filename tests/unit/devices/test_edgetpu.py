"""Edge TPUs are found by file reads, and a name stands for one chip whatever the driver's numbers mean today."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import edge_tpus
import pytest

from workers.devices import edgetpu
from workers.devices.base import DeviceFault, Found, Opened
from workers.devices.edgetpu import EdgeTpu, EdgeTpuConfig
from workers.devices.first_open import ask

ONE, TWO = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"


def tpu(root: Path, library: Path, name: str) -> EdgeTpu:
    """The device of that name."""
    bus, _, index = name.partition(":")
    config = EdgeTpuConfig(
        name=name, bus="pci" if bus == "pci" else "usb", index=int(index), library=str(library), root=str(root)
    )
    return EdgeTpu(config, ask)


@contextmanager
def held_as(library: Path, opened: Opened) -> Iterator[None]:
    """This process has the device, as its engine would."""
    loaded, delegate = edge_tpus.open_here(library, opened.name)
    assert delegate
    try:
        yield
    finally:
        edge_tpus.close_here(loaded, delegate)


def test_both_kinds_are_found_with_what_their_files_say(root: Path) -> None:
    """A chip on PCIe tells of heat, owner and resets; a stick of port and speed, and of nothing it has no file for."""
    edge_tpus.add_pcie(root, "apex_3", ONE, temp="86000", is_device_owned="1", device_owner="4711")
    edge_tpus.add_usb(root, "2-1.4")
    edge_tpus.add_usb(root, "1-2", fresh=False, speed="480")
    (root / "sys/bus/usb/devices/1-0:1.0").mkdir()
    found = {one.name: one for one in edgetpu.discover(root)}
    assert set(found) == {"pci:0", "usb:0", "usb:1"}
    hot = found["pci:0"].health
    assert (hot.identity, hot.temperature_c, hot.temperature_limit_c, hot.throttled) == (ONE, 86.0, 85.0, True)
    assert (hot.owner_pid, hot.resets, hot.link, hot.note) == (4711, 2, "PCIe 0000:03:00.0", "ALIVE, driver 1.2")
    old, new = found["usb:0"].health, found["usb:1"].health
    assert (old.identity, old.link, old.note) == ("1-2", "USB 2, 480 Mbit/s, port 1-2", "")
    assert (new.identity, new.link, new.note) == (
        "2-1.4",
        "USB 3, 5000 Mbit/s, port 2-1.4",
        "not opened since it got power",
    )
    assert (new.temperature_c, new.throttled, new.owner_pid, new.resets) == (None, None, None, None)


def test_a_machine_without_any_has_none(root: Path) -> None:
    """No directory of the driver, no USB: nothing is found and nothing is raised."""
    assert edgetpu.discover(root) == []


def test_an_old_driver_s_chip_is_known_by_its_slot(root: Path) -> None:
    """What the driver does not tell is None, and two chips that give the same number are not taken for one."""
    edge_tpus.add_pcie(root, "apex_0", ONE, temp="", trip_point0_temp="", reset_count="", device_owner="")
    edge_tpus.add_pcie(root, "apex_1", ONE)
    bare = next(one for one in edgetpu.discover(root) if one.path.endswith("apex_0"))
    assert bare.identity == "0000:00:00.0"
    health = bare.health
    assert (health.temperature_c, health.throttled, health.resets, health.owner_pid) == (None, None, None, None)


@pytest.mark.parametrize("library", ["listing", "silent"])
def test_a_renumbered_chip_is_found_again(root: Path, library: str, request: pytest.FixtureRequest) -> None:
    """After a reboot the chips have other numbers: the number is looked for that means the chip that is remembered."""
    built: Path = request.getfixturevalue(library)
    edge_tpus.add_pcie(root, "apex_0", TWO)
    edge_tpus.add_pcie(root, "apex_1", ONE)
    names = {}
    for chip in (ONE, TWO):
        device = tpu(root, built, "pci:0")
        opened = device.open(chip, frozenset())
        assert (opened.identity, device.health().identity) == (chip, chip)
        with held_as(built, opened):
            device.confirm(opened)
            assert device.health().owner_pid == os.getpid()
        names[chip] = opened.name
    assert set(names.values()) == {"pci:0", "pci:1"}


@pytest.mark.parametrize("library", ["listing", "silent"])
def test_sticks_keep_their_names_though_opening_renumbers_them(
    root: Path, library: str, request: pytest.FixtureRequest
) -> None:
    """usb:N is bound to the ports in their order, and stays there when the first opening moves a stick in the list."""
    built: Path = request.getfixturevalue(library)
    ports = ["1-2", "1-10"]
    for port in ports:
        edge_tpus.add_usb(root, port)
    taken: set[str] = set()
    for number, port in enumerate(ports):
        device = tpu(root, built, f"usb:{number}")
        opened = device.open("", frozenset(taken))
        assert opened.identity == port
        with held_as(built, opened):
            device.confirm(opened)
        taken.add(port)
    for number, port in enumerate(ports):
        opened = tpu(root, built, f"usb:{number}").open(port, frozenset(taken - {port}))
        with held_as(built, opened):
            assert [chip.entry for chip in edgetpu.held(root, "usb", os.getpid())] == [port]


def test_the_wrong_chip_is_not_kept(root: Path, listing: Path) -> None:
    """When the order changed between the look and the opening, the worker says so instead of serving beside another."""
    edge_tpus.add_usb(root, "1-1", fresh=False)
    edge_tpus.add_usb(root, "1-2", fresh=False)
    device = tpu(root, listing, "usb:0")
    opened = device.open("1-1", frozenset())
    other = "usb:0" if opened.name == "usb:1" else "usb:1"
    with held_as(listing, Opened(other)), pytest.raises(DeviceFault, match=r"usb:0 is the Edge TPU 1-1, but .* 1-2"):
        device.confirm(opened)


def test_a_stick_that_was_unplugged_is_named(root: Path, listing: Path) -> None:
    """The name does not go over to another stick by itself; the sentence says how it may."""
    edge_tpus.add_usb(root, "1-2")
    with pytest.raises(DeviceFault, match=r"1-1, which is not there \(on usb: 1-2\).*devices --forget usb:0"):
        tpu(root, listing, "usb:0").open("1-1", frozenset())
    with pytest.raises(DeviceFault, match=r"There is no usb:1: 1 Edge TPUs"):
        tpu(root, listing, "usb:1").open("", frozenset())


def test_a_chip_of_another_process_is_left_to_it(root: Path, listing: Path) -> None:
    """Whoever holds it is named; it is not even tried."""
    edge_tpus.add_pcie(root, "apex_0", ONE, is_device_owned="1", device_owner=str(os.getppid()))
    with pytest.raises(DeviceFault, match=rf"belongs to process {os.getppid()} \(.+\)"):
        tpu(root, listing, "pci:0").open("", frozenset())


@pytest.mark.parametrize(
    ("change", "says"),
    [("DEAD", "its driver says DEAD"), ("gone", "is missing: is the driver loaded"), ("", "")],
)
def test_what_stands_in_the_way_is_told(root: Path, change: str, says: str) -> None:
    """A dead chip and a device file that is not there are problems before anything is opened."""
    place = edge_tpus.add_pcie(root, "apex_0", ONE)
    if change == "DEAD":
        (place / "status").write_text("DEAD\n")
    elif change:
        (root / "dev/apex_0").unlink()
    found: Found = edgetpu.discover(root)[0]
    assert says in found.problem
    assert bool(found.problem) == bool(says)
