"""Keeps one worker's device: opens it, leaves it alone after faults, lets the CPU do its work meanwhile, watches it.

    quarantined? ── yes ── the pool allows the CPU? ── yes: the engine opens on the CPU; when the device works again
         │                        │                        the worker ends in good order and its successor takes it
         no                       no: wait here, told in every report
         │
    open once (workers/devices/first_open.py) ── a fault: count it, try again or be quarantined
         │
    the engine opens it ── confirm that it is the right one

What is remembered is in workers/devices/memory.py. Knows no engine and no queue.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

from reef.contracts.nodes import DeviceHealth
from reef.settings import Settings
from reef.topology import Device
from workers.devices.base import HEALTHY_AFTER_S, DeviceFault, Kind, Opened
from workers.devices.first_open import turn
from workers.devices.last_words import LastWords
from workers.devices.registry import config_of, kind_of

if TYPE_CHECKING:
    from workers.devices.memory import DeviceMemory, Remembered

log = logging.getLogger(__name__)

HEALTH_INTERVAL_S = 5.0
"""How old what a report says about the hardware may be."""
NEXT_TRY_MIN_S = 0.5
CLOSE_WAIT_S = 2.0
MEMORY_BUSY_S = 5.0
TRY_AGAIN_S = 60.0
"""Until the next look at a device whose work the CPU does, where no quarantine could be written down."""
T = TypeVar("T")


class DeviceSays(msgspec.Struct, frozen=True, kw_only=True):
    """What a worker's report says of its device."""

    health: DeviceHealth = DeviceHealth()
    last_fault: str = ""
    last_fault_at: float = 0.0
    fallback: bool = False
    waiting: str = ""
    """A sentence while the device is in quarantine and nothing serves in its place."""
    note: str = ""


class DeviceKeeper:
    """The device of this process. `open` once, `serving` when the engine has it, `close` at the end."""

    def __init__(
        self,
        settings: Settings,
        device: Device,
        *,
        cpu_fallback: bool = False,
        kind: Kind | None = None,
        clock: Callable[[], float] = time.time,
        come_back: Callable[[], None] | None = None,
    ) -> None:
        """Opens nothing yet. `come_back` is called when a device works again whose work the CPU does."""
        self.device = device
        self._settings, self._cpu_fallback, self._clock = settings, cpu_fallback, clock
        self._kind = kind or kind_of(config_of(settings, device))
        self._come_back = come_back or _end_in_good_order
        self._words = LastWords(settings.data_dir, settings.node, clock)
        self._lock = threading.Lock()
        self._says = DeviceSays()
        self._closing, self._serving, self._wake = threading.Event(), threading.Event(), threading.Event()
        self._opened: Opened | None = None
        self._opening = threading.Lock()
        self._now: Device | None = None
        self._serving_since: float | None = None
        self._healthy = False
        self._until = 0.0
        self._watcher: threading.Thread | None = None

    def opened(self) -> Device:
        """What `open` gave, which is called at the first time. Raises as it does."""
        with self._opening:
            if self._now is None:
                self._now = self.open()
            return self._now

    def open(self) -> Device:
        """The device as an engine must see it: with its driver's number of now, or the CPU in its place.

        Waits while the device is in quarantine and nothing may do its work. Raises DeviceFault when it is closed
        meanwhile.
        """
        end = self._words.of_predecessor()
        if end is not None:
            log.warning("%s: %s", self.device.name, end.reason)
            self._fault(end.reason, at=end.at, served_s=end.served_s)
        self._words.begin()
        self._watcher = threading.Thread(target=self._watch, name="device-health", daemon=True)
        self._watcher.start()
        while not self._closing.is_set():
            known = self._recall()
            if known is not None and known.quarantined_until > self._clock():
                if self._cpu_fallback:
                    return self._fall_back(known)
                self._wait(known)
                continue
            try:
                self._opened = self._try(known)
            except DeviceFault as fault:
                log.error("%s", fault)  # noqa: TRY400 - the sentence is enough
                if self._fault(str(fault), at=self._clock()) is None:
                    raise  # nothing remembers it: the supervisor's growing pauses must do
                continue
            self._tell(waiting="")
            self._words.begin()  # what it serves is counted from here
            return _as_opened(self.device, self._opened)
        raise DeviceFault(f"{self.device.name} was closed while it was waited for.")

    def serving(self) -> None:
        """The engine has the device. Raises DeviceFault when it is another one than was meant."""
        if self._opened is not None:
            self._kind.confirm(self._opened)
        if self._serving_since is None:
            self._serving_since = self._clock()
        self._serving.set()
        self._wake.set()

    def failed(self, error: BaseException) -> None:
        """The engine could not be loaded or gave up; counts where the device is to blame."""
        if isinstance(error, DeviceFault) and self._opened is not None:
            self._fault(str(error), at=self._clock(), served_s=self._served_s())

    def says(self) -> DeviceSays:
        """For the report; never waits."""
        with self._lock:
            return self._says

    def served_by(self) -> str:
        """What answers say did the work: this device, or the CPU where that stands in for it."""
        return f"cpu (in place of {self.device.name})" if self.says().fallback else self.device.name

    def close(self) -> None:
        """The engine has let the device go, in good order."""
        self._closing.set()
        self._wake.set()
        if self._watcher is not None:
            self._watcher.join(CLOSE_WAIT_S)
        self._words.end()

    # --- opening -----------------------------------------------------------------------------------------------

    def _try(self, known: Remembered | None) -> Opened:
        remembered = known.identity if known else ""
        # opening a stick renumbers the others; on PCIe nobody is in anybody's way
        one_by_one = turn(self._opening_lock()) if self.device.name.startswith("usb:") else nullcontext()
        with one_by_one:
            opened = self._kind.open(remembered, self._taken())
            if self._kind.quarantines:
                self._with_memory(lambda memory: memory.seen(self.device.name, opened.identity))
            return opened

    def _opening_lock(self) -> Path:
        return self._settings.data_dir / "run" / "devices" / "opening"

    def _fall_back(self, known: Remembered) -> Device:
        self._until = known.quarantined_until
        note = f"The CPU does the work of {self.device.name} until it works again: {known.last_fault}"
        log.warning("%s", note)
        self._words.end()  # what happens to the CPU is no fault of the device
        self._tell(fallback=True, note=note, waiting="")
        return msgspec.structs.replace(self.device, kind="cpu", cores=())

    def _wait(self, known: Remembered) -> None:
        at = time.strftime("%H:%M:%S", time.localtime(known.quarantined_until))
        times = "once" if known.failures == 1 else f"{known.failures} times in a row"
        self._tell(waiting=f"Failed {times}; tried again at {at}. {known.last_fault}")
        # in short steps: the clock of a machine may be set
        self._closing.wait(min(1.0, max(0.01, known.quarantined_until - self._clock())))

    # --- watching ----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        noted = False
        while not self._closing.is_set():
            if not noted and self._serving.is_set():
                noted = True
                self._tell_history(self._with_memory(lambda memory: memory.seen(self.device.name, "")))
            self._tell(health=self._kind.health())
            if self.says().fallback:
                self._try_again()
            elif not self._healthy and self._served_s() >= HEALTHY_AFTER_S:
                self._healthy = True
                self._with_memory(lambda memory: memory.healthy(self.device.name))
            self._wake.wait(self._pause_s())
            self._wake.clear()

    def _pause_s(self) -> float:
        """Until the next look, or the next try of a device whose work the CPU does."""
        if not self.says().fallback:
            return HEALTH_INTERVAL_S
        return min(HEALTH_INTERVAL_S, max(NEXT_TRY_MIN_S, self._until - self._clock()))

    def _try_again(self) -> None:
        """While the CPU does the work: look whether the device can do it again."""
        if not self._serving.is_set() or self._clock() < self._until:
            return
        try:
            self._try(self._recall())
        except DeviceFault as fault:
            known = self._fault(str(fault), at=self._clock())
            self._until = known.quarantined_until if known else self._clock() + TRY_AGAIN_S
            self._tell(note=f"The CPU does the work of {self.device.name} until it works again: {fault}")
            return
        log.warning("%s works again; this worker makes way for one that uses it", self.device.name)
        self._until = float("inf")
        self._come_back()

    def _served_s(self) -> float:
        return 0.0 if self._serving_since is None else self._clock() - self._serving_since

    # --- remembering: without the database a device is used as if nothing had ever happened ----------------------

    @contextmanager
    def _memory(self) -> Iterator[DeviceMemory]:
        from reef.records.database import Database
        from workers.devices.memory import DeviceMemory

        database = Database(self._settings.sqlalchemy_url, busy_timeout_s=MEMORY_BUSY_S)
        try:
            yield DeviceMemory(database, socket.gethostname(), self._clock)
        finally:
            database.dispose()

    def _recall(self) -> Remembered | None:
        """What is known; not asked for a device that is never left alone: its worker should be back soon."""
        if not self._kind.quarantines:
            return None
        return self._tell_history(self._with_memory(lambda memory: memory.get(self.device.name)))

    def _taken(self) -> frozenset[str]:
        if self.device.kind != "edgetpu":
            return frozenset()
        return self._with_memory(lambda memory: memory.taken(self.device.name)) or frozenset()

    def _tell_history(self, known: Remembered | None) -> Remembered | None:
        """What the device failed of before, for the report."""
        if known is not None and known.last_fault_at >= self.says().last_fault_at:
            self._tell(last_fault=known.last_fault, last_fault_at=known.last_fault_at)
        return known

    def _fault(self, reason: str, *, at: float, served_s: float = 0.0) -> Remembered | None:
        """Count it; None where that could not be written down."""
        quarantine = self._kind.quarantines
        self._tell(last_fault=reason, last_fault_at=at)
        return self._with_memory(
            lambda memory: memory.fault(self.device.name, reason, at=at, served_s=served_s, quarantine=quarantine)
        )

    def _with_memory(self, work: Callable[[DeviceMemory], T]) -> T | None:
        import sqlalchemy as sa

        try:
            with self._memory() as memory:
                return work(memory)
        except sa.exc.SQLAlchemyError as error:
            log.warning("what is known of %s cannot be read or written: %s", self.device.name, error)
            return None

    def _tell(self, **fields: object) -> None:
        with self._lock:
            self._says = msgspec.structs.replace(self._says, **fields)


def _as_opened(device: Device, opened: Opened) -> Device:
    """The device under its driver's name of now. Only accelerators have one: `cpu:0-3` is no driver's name."""
    if opened.name == device.name or device.kind not in ("edgetpu", "cuda"):
        return device
    return msgspec.structs.replace(device, name=opened.name, index=int(opened.name.partition(":")[2]))


def _end_in_good_order() -> None:
    """As when an operator stops it: what runs is finished, and whoever supervises this worker starts it again."""
    os.kill(os.getpid(), signal.SIGTERM)
