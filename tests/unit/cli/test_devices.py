"""`coral-reef devices` and the doctor's check: what there is, what is missing, who holds it, what is left alone."""

from __future__ import annotations

import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any

import edge_tpus
import pytest
from click.testing import CliRunner, Result

from cli.main import main
from reef.records.database import Database
from reef.settings import Settings
from workers.devices.memory import DeviceMemory

ONE, TWO = "0123456789abcdef0123456789abcdef", "fedcba9876543210fedcba9876543210"
QUEUES = """
version: 1
pools:
  chat: {queue: chat, devices: [cpu]}
  embed: {queue: embed, devices: [pci:0, usb:0], cpu_fallback: FALLBACK}
  media: {queue: media, devices: [cuda:0]}
"""


@pytest.fixture
def machine(tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine of files, a queues.yaml with accelerators, a database and a delegate."""
    for name in Settings.__struct_fields__:
        monkeypatch.delenv(f"REEF_{name.upper()}", raising=False)
    (tmp_path / "data").mkdir()
    shutil.copyfile(migrated_file, tmp_path / "data/reef.db")
    (tmp_path / "queues.yaml").write_text(QUEUES.replace("FALLBACK", "false"))
    monkeypatch.setenv("REEF_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REEF_QUEUES_FILE", str(tmp_path / "queues.yaml"))
    monkeypatch.setenv("REEF_DEVICE_ROOT", str(tmp_path))
    monkeypatch.setenv("REEF_EDGETPU_LIBRARY", str(edge_tpus.build(tmp_path, "listed_edge_tpus")))
    monkeypatch.setenv("EDGE_TPU_ROOT", str(tmp_path))
    return tmp_path


@pytest.fixture
def memory(machine: Path) -> Any:
    """What is remembered on this host."""
    database = Database(f"sqlite:///{machine / 'data/reef.db'}")
    yield DeviceMemory(database, socket.gethostname())
    database.dispose()


def coral_reef(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, list(arguments))


def problems() -> dict[str, str]:
    """What is wrong, by device."""
    return {one["device"]: one["problem"] for one in json.loads(coral_reef("devices", "--json").output)["problems"]}


def check() -> dict[str, str]:
    """What the doctor says of devices."""
    checks = json.loads(coral_reef("doctor", "--json").output)["checks"]
    return next(one for one in checks if one["name"] == "devices")


def test_devices_are_listed_with_identity_and_health(machine: Path, memory: DeviceMemory) -> None:
    """For people in a table, for programs as JSON; a device is listed under the name that stands for it."""
    edge_tpus.add_pcie(machine, "apex_0", ONE)
    edge_tpus.add_usb(machine, "1-2")
    memory.seen("pci:7", ONE)
    found = {one["name"]: one for one in json.loads(coral_reef("devices", "--json").output)["found"]}
    assert set(found) == {"pci:7", "usb:0", "cpu"}
    assert found["pci:7"]["identity"] == ONE
    assert found["pci:7"]["health"]["temperature_c"] == 61.3
    assert "temperature_c" not in found["usb:0"]["health"]
    text = coral_reef("devices").output
    assert "USB 3, 5000 Mbit/s, port 1-2" in text
    assert "! cuda:0 of queues.yaml: is missing; found on cuda: none" in text


def test_what_is_missing_held_or_left_alone_is_told(machine: Path, memory: DeviceMemory) -> None:
    """Each device of queues.yaml that cannot serve, and why."""
    edge_tpus.add_pcie(machine, "apex_0", ONE, is_device_owned="1", device_owner=str(os.getppid()))
    memory.seen("usb:0", "2-1")
    for _ in range(4):
        memory.fault("usb:0", "It did not answer.", at=time.time())
    (machine / "queues.yaml").write_text(QUEUES.replace("cuda:0", "usb:1").replace("FALLBACK", "false"))
    found = json.loads(coral_reef("devices", "--json").output)["problems"]
    told = [(one["device"], one["problem"]) for one in found]
    assert told[0][0] == "pci:0"
    assert f"belongs to process {os.getppid()}" in told[0][1]
    assert told[1] == ("usb:0", "the device 2-1 is missing; found on usb: none")
    assert told[2][0] == "usb:0"
    assert "out of use until" in told[2][1]
    assert "after 4 faults: It did not answer." in told[2][1]
    assert told[3] == ("usb:1", "is missing; found on usb: none")


def test_the_doctor_knows_which_fault_stops_work(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the CPU stands in it is a warning; a library that does not load is told once."""
    edge_tpus.add_pcie(machine, "apex_0", ONE)
    edge_tpus.add_usb(machine, "1-2")
    (machine / "queues.yaml").write_text(QUEUES.replace("cuda:0", "").replace("FALLBACK", "true"))
    assert check()["verdict"] == "good"
    monkeypatch.setenv("REEF_EDGETPU_LIBRARY", "libnone.so")
    found = check()
    assert (found["verdict"], found["text"].count("libnone.so cannot be loaded")) == ("warning", 1)
    (machine / "queues.yaml").write_text(QUEUES.replace("cuda:0", "").replace("FALLBACK", "false"))
    assert check()["verdict"] == "bad"


def test_a_name_can_be_let_go(memory: DeviceMemory) -> None:
    """Then it may stand for another stick; a name that nobody knows is an error."""
    memory.seen("usb:0", "2-1")
    assert coral_reef("devices", "--forget", "usb:0").exit_code == 0
    assert memory.get("usb:0").identity == ""
    again = coral_reef("devices", "--forget", "usb:0")
    assert (again.exit_code, "Nothing is remembered of usb:0" in again.output) == (1, True)


def test_a_chip_in_another_s_place_has_no_name_yet(machine: Path, memory: DeviceMemory) -> None:
    """A number that stands for another chip is not shown for this one."""
    edge_tpus.add_pcie(machine, "apex_0", TWO)
    memory.seen("pci:0", ONE)
    found = [one for one in json.loads(coral_reef("devices", "--json").output)["found"] if one["kind"] == "edgetpu"]
    assert [(one["name"], one["identity"]) for one in found] == [("", TWO)]
    assert problems()["pci:0"].startswith(f"the device {ONE} is missing")
