"""One slot per worker process: the device it owns. Filled once by `workers`, read by `tasks`."""

from __future__ import annotations

import threading
from typing import Generic, TypeVar

from reef.ports import DeviceContext

T = TypeVar("T")


class AlreadyFilled(RuntimeError):
    """A second device was put into a process that owns one: one process, one device."""


class Slot(Generic[T]):
    """Holds one value for the life of the process."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._value: T | None = None
        self._lock = threading.Lock()

    def fill(self, value: T) -> None:
        """Put the value in. Raises AlreadyFilled on the second call."""
        with self._lock:
            if self._value is not None:
                raise AlreadyFilled(f"this process already has a {self._name}: one process, one device")
            self._value = value

    def get(self) -> T:
        """The value. Raises RuntimeError where the process never filled the slot."""
        if self._value is None:
            raise RuntimeError(f"this process has no {self._name}: only workers run tasks")
        return self._value


device: Slot[DeviceContext] = Slot("device")
"""The device of this process."""
