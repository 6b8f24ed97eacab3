"""What is remembered of a device beyond the life of its worker: which chip its name stands for, and its faults.

The table `devices`, one row for each name on each host. Decides how long a device that failed is left alone.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.records.database import Database
from reef.records.tables import devices
from workers.devices.base import HEALTHY_AFTER_S

QUARANTINES_S = (0.0, 5.0, 15.0, 60.0, 300.0, 900.0)
"""How long a device is left alone after its n-th fault in a row: one may happen, the last repeats."""
FAULT_CHARS_MAX = 2000


class Remembered(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table; the defaults are those of a device that nobody ever used."""

    host: str
    name: str
    identity: str = ""
    failures: int = 0
    quarantined_until: float = 0.0
    last_fault: str = ""
    last_fault_at: float = 0.0
    first_seen_at: float = 0.0
    last_seen_at: float = 0.0


class DeviceMemory:
    """The rows of one host. Safe to share between threads and processes."""

    def __init__(self, database: Database, host: str, clock: Callable[[], float] = time.time) -> None:
        self.database, self.host, self.clock = database, host, clock

    def get(self, name: str) -> Remembered:
        """What is known of the device of that name."""
        with self.database.read() as connection:
            row = connection.execute(sa.select(devices).where(self._is(name))).mappings().first()
        return Remembered(**row) if row else Remembered(host=self.host, name=name)

    def all(self) -> list[Remembered]:
        """Every device of this host that was ever used."""
        query = sa.select(devices).where(devices.c.host == self.host).order_by(devices.c.name)
        with self.database.read() as connection:
            return [Remembered(**row) for row in connection.execute(query).mappings()]

    def taken(self, name: str) -> frozenset[str]:
        """Identities that other names of this host stand for."""
        return frozenset(row.identity for row in self.all() if row.name != name and row.identity)

    def seen(self, name: str, identity: str) -> Remembered:
        """It is in use; from now on its name stands for this chip. Without an identity the old one stays."""
        fields: dict[str, Any] = {"last_seen_at": self.clock()} | ({"identity": identity} if identity else {})
        return self._change(name, fields)

    def fault(self, name: str, reason: str, *, at: float, served_s: float = 0.0, quarantine: bool = True) -> Remembered:
        """It failed after it had served for so long: count it, and leave it alone for a while."""
        known = self.get(name)
        failures = 1 if served_s >= HEALTHY_AFTER_S else known.failures + 1
        pause_s = QUARANTINES_S[min(failures, len(QUARANTINES_S)) - 1] if quarantine else 0.0
        fields = {
            "failures": failures,
            "quarantined_until": self.clock() + pause_s if pause_s else 0.0,
            "last_fault": reason[:FAULT_CHARS_MAX],
            "last_fault_at": at,
        }
        return self._change(name, fields)

    def healthy(self, name: str) -> Remembered:
        """It has served long enough: the next fault is a first one. What it was last stays to be read."""
        return self._change(name, {"failures": 0, "quarantined_until": 0.0, "last_seen_at": self.clock()})

    def forget(self, names: Sequence[str]) -> int:
        """These names stand for nothing any more, and their faults are forgiven. Gives how many were known."""
        with self.database.write() as connection:
            known = sa.and_(devices.c.host == self.host, devices.c.name.in_(list(names)))
            return int(connection.execute(devices.delete().where(known)).rowcount)

    def _change(self, name: str, fields: dict[str, Any]) -> Remembered:
        """Only the worker of a device writes its row, so between reading and writing nothing happens to it."""
        now = self.clock()
        with self.database.write() as connection:
            if not connection.execute(devices.update().where(self._is(name)).values(**fields)).rowcount:
                new = {"host": self.host, "name": name, "identity": "", "first_seen_at": now, "last_seen_at": now}
                connection.execute(devices.insert().values(**new | fields))
            row = connection.execute(sa.select(devices).where(self._is(name))).mappings().one()
            return Remembered(**row)

    def _is(self, name: str) -> sa.ColumnElement[bool]:
        return sa.and_(devices.c.host == self.host, devices.c.name == name)
