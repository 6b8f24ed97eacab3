"""What the device of this process offers, pool by pool. Filled by `workers`, read by `tasks`.

One process, one device; but the device may come to serve another pool while jobs of the one before still run.
"""

from __future__ import annotations

import threading

from reef.ports import Station


class AlreadyFilled(RuntimeError):
    """A second device was put into a process that owns one: one process, one device."""


class Stations:
    """The stations of one device for the life of the process; one that was opened stays."""

    def __init__(self) -> None:
        self._stations: dict[str, Station] = {}
        self._lock = threading.Lock()

    def fill(self, station: Station) -> None:
        """Put the station of a pool in. Raises AlreadyFilled for a pool that has one, or for another device."""
        with self._lock:
            others = {known.node for known in self._stations.values()} - {station.node}
            if others or station.pool.name in self._stations:
                raise AlreadyFilled(f"this process already serves {', '.join(self._stations)}: one process, one device")
            self._stations[station.pool.name] = station

    def has(self, pool: str) -> bool:
        """Whether this pool has a station."""
        return pool in self._stations

    def get(self, pool: str) -> Station:
        """The station of a pool. Raises RuntimeError where there is none."""
        try:
            return self._stations[pool]
        except KeyError:
            raise RuntimeError(f"this process has nothing for pool {pool}: only its workers run its tasks") from None


device = Stations()
"""The device of this process."""
