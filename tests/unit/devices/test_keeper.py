"""A worker's device through its faults: tried again, left alone, its work done by the CPU, and taken back."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path

import pytest

from reef.contracts.nodes import DeviceHealth
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import Device
from workers.devices import keeper
from workers.devices.base import DeviceFault, Opened
from workers.devices.keeper import DeviceKeeper
from workers.devices.memory import QUARANTINES_S, DeviceMemory

ROOT = Path(__file__).parents[3]
HOST = os.uname().nodename
WAIT_S = 10.0


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Flaky:
    """workers.devices.base.Kind that fails as often as it is told."""

    quarantines = True

    def __init__(self, faults: int) -> None:
        self.faults, self.opened = faults, 0
        self.wrong = False

    def identity(self) -> str:
        return "chip"

    def health(self) -> DeviceHealth:
        return DeviceHealth(identity="chip", temperature_c=42.0)

    def open(self, remembered: str, taken: Collection[str]) -> Opened:
        self.opened += 1
        if self.faults:
            self.faults -= 1
            raise DeviceFault("It did not answer.")
        return Opened("usb:1", "chip")

    def confirm(self, opened: Opened) -> None:
        if self.wrong:
            raise DeviceFault("Another chip.")


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def settings(tmp_path: Path, migrated_file: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A data directory with a database, and a watch that looks often."""
    monkeypatch.setattr(keeper, "HEALTH_INTERVAL_S", 0.02)
    monkeypatch.setattr(keeper, "NEXT_TRY_MIN_S", 0.02)
    (tmp_path / "reef.db").write_bytes(migrated_file.read_bytes())
    return Settings(data_dir=tmp_path, node="embed-usb-0")


def row(settings: Settings, name: str = "usb:0") -> object:
    """What is remembered."""
    database = Database(settings.sqlalchemy_url)
    try:
        return DeviceMemory(database, HOST).get(name)
    finally:
        database.dispose()


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll something that has no event of its own."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s for: {what}"
        time.sleep(0.01)


def test_one_fault_is_tried_again_at_once(settings: Settings) -> None:
    """The engine gets the driver's name of now; the report tells what was wrong and how the device feels."""
    kind = Flaky(1)
    kept = DeviceKeeper(settings, Device("usb:0", "edgetpu"), kind=kind)
    opened = kept.open()
    kept.serving()
    assert (opened, kind.opened) == (Device("usb:1", "edgetpu", index=1), 2)
    wait_until(lambda: kept.says().health.temperature_c == 42.0, "a first look")
    says = kept.says()
    assert (says.last_fault, says.fallback, says.waiting) == ("It did not answer.", False, "")
    kept.close()
    assert row(settings).identity == "chip"


def test_repeated_faults_make_the_worker_wait(settings: Settings, clock: Clock) -> None:
    """Without a stand-in the worker stays, says why and until when, and touches the device no more than allowed."""
    kind = Flaky(2)
    kept = DeviceKeeper(settings, Device("usb:0", "edgetpu"), kind=kind, clock=clock)
    found: list[Device] = []
    thread = threading.Thread(target=lambda: found.append(kept.open()))
    thread.start()
    wait_until(lambda: kept.says().waiting, "the quarantine")
    assert (kind.opened, row(settings).failures) == (2, 2)
    assert kept.says().waiting.startswith("Failed 2 times in a row; tried again at ")
    assert kept.says().waiting.endswith("It did not answer.")
    clock.now += QUARANTINES_S[1] + 0.01
    thread.join(WAIT_S)
    assert (len(found), kind.opened, kept.says().waiting) == (1, 3, "")
    kept.close()


def test_a_wait_ends_with_its_worker(settings: Settings, clock: Clock) -> None:
    """Nobody waits for a device of a worker that is told to stop."""
    kept = DeviceKeeper(settings, Device("usb:0", "edgetpu"), kind=Flaky(99), clock=clock)
    failed: list[DeviceFault] = []

    def wait() -> None:
        try:
            kept.open()
        except DeviceFault as fault:
            failed.append(fault)

    thread = threading.Thread(target=wait)
    thread.start()
    wait_until(lambda: kept.says().waiting, "the quarantine")
    kept.close()
    thread.join(WAIT_S)
    assert "closed" in str(failed[0])


def test_the_cpu_stands_in_until_the_device_works_again(settings: Settings, clock: Clock) -> None:
    """The reason is told; the device is tried after each pause; when it works the worker makes way."""
    kind, back = Flaky(3), threading.Event()
    kept = DeviceKeeper(
        settings, Device("usb:0", "edgetpu"), cpu_fallback=True, kind=kind, clock=clock, come_back=back.set
    )
    assert kept.open() == Device("usb:0", "cpu")
    kept.serving()
    says = kept.says()
    assert (says.fallback, says.last_fault, kind.opened) == (True, "It did not answer.", 2)
    assert says.note == "The CPU does the work of usb:0 until it works again: It did not answer."
    assert kept.served_by() == "cpu (in place of usb:0)"
    clock.now += QUARANTINES_S[1] + 0.01
    wait_until(lambda: kind.opened == 3, "the next try")
    wait_until(lambda: row(settings).failures == 3, "its fault")
    assert not back.is_set()
    clock.now += QUARANTINES_S[2] + 0.01
    assert back.wait(WAIT_S)
    assert kind.opened == 4
    kept.close()
    assert kind.opened == 4


def test_the_wrong_chip_counts_and_ends_the_worker(settings: Settings) -> None:
    """What the engine's own opening shows is a fault of the device, a missing model is not."""
    kind = Flaky(0)
    kept = DeviceKeeper(settings, Device("usb:0", "edgetpu"), kind=kind)
    kept.open()
    kept.failed(ValueError("no such model"))
    assert row(settings).failures == 0
    kind.wrong = True
    with pytest.raises(DeviceFault) as raised:
        kept.serving()
    kept.failed(raised.value)
    kept.close()
    assert (row(settings).failures, row(settings).last_fault) == (1, "Another chip.")


def test_without_a_database_the_supervisor_s_pauses_must_do(settings: Settings, tmp_path: Path) -> None:
    """Faults that nobody can count are raised, not tried again in a loop."""
    (tmp_path / "reef.db").unlink()
    kind = Flaky(99)
    kept = DeviceKeeper(settings, Device("usb:0", "edgetpu"), kind=kind)
    with pytest.raises(DeviceFault, match="did not answer"):
        kept.open()
    assert kind.opened == 1
    kept.close()


def test_a_device_that_serves_long_enough_is_healthy(settings: Settings, clock: Clock) -> None:
    """Its next fault is a first one."""
    kept = DeviceKeeper(settings, Device("usb:0", "edgetpu"), kind=Flaky(1), clock=clock)
    kept.open()
    kept.serving()
    assert row(settings).failures == 1
    clock.now += keeper.HEALTHY_AFTER_S + 1
    wait_until(lambda: row(settings).failures == 0, "the forgiving")
    assert row(settings).last_fault == "It did not answer."
    kept.close()


LIFE = """
import ctypes, os, sys, time
from pathlib import Path
from reef.settings import Settings
from reef.topology import Device
from workers.devices.keeper import DeviceKeeper
from workers.devices.last_words import trace_file
from workers.watchdog import guard
settings = Settings(data_dir=Path(sys.argv[1]), node="embed-usb-0")
kept = DeviceKeeper(settings, Device("simulated", "simulated"))
kept.open()
kept.serving()
if sys.argv[2] == "abort":
    os.abort()
if sys.argv[2] == "hang":
    with guard(0.3, trace_file(settings.data_dir, settings.node)):
        ctypes.PyDLL(None).usleep(20_000_000)
if sys.argv[2] == "killed":
    print("open", flush=True)
    time.sleep(60)
kept.close()
"""


def live(settings: Settings, how: str) -> int:
    """A worker's life in a process of its own; gives how it ended."""
    argv = [sys.executable, "-c", LIFE, str(settings.data_dir), how]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        if how == "killed":
            process.stdout.readline()
            process.kill()
        return process.wait(WAIT_S)


@pytest.mark.parametrize(
    ("how", "ended", "says"),
    [
        ("abort", -signal.SIGABRT, "ended by its device or driver (Aborted)"),
        ("hang", 1, "did not come back within 0:00:00.3"),
        ("killed", -signal.SIGKILL, ""),
        ("in good order", 0, ""),
    ],
)
def test_how_the_worker_before_ended_is_told_by_the_next(settings: Settings, how: str, ended: int, says: str) -> None:
    """The watchdog and a driver's signal leave words; a kill from outside and a good end are no fault of the device."""
    assert live(settings, how) == ended
    assert live(settings, "in good order") == 0
    known = row(settings, "simulated")
    assert known.failures == (1 if says else 0)
    assert says in known.last_fault
    assert live(settings, "in good order") == 0
    assert row(settings, "simulated").failures == known.failures, "told once"


@pytest.mark.parametrize("name", ["cpu", "cpu:0", "cpu:0-1", "simulated", "simulated:3"])
def test_what_no_driver_numbers_stays_what_it_is(settings: Settings, name: str) -> None:
    """Cores of a processor are opened as queues.yaml names them."""
    device = Device(name, "cpu" if name.startswith("cpu") else "simulated", index=3, cores=(0, 1))
    kept = DeviceKeeper(settings, device)
    assert kept.opened() == device
    assert kept.opened() == device, "opened once"
    kept.close()
