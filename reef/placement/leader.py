"""One leader among several sweepers: a row with a lease. Whoever holds it decides; the others watch and wait."""

from __future__ import annotations

import time
from collections.abc import Callable

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from reef.records.database import Database
from reef.records.tables import leaders

LEASE_S = 3.0
RENEW_BELOW_S = 2.0
"""The row is written when less than this is left of the lease, not in every round."""


class Leader:
    """This process's claim to lead. Two leaders at once (clocks that differ) do no harm: versions of places decide."""

    def __init__(self, database: Database, name: str, holder: str, clock: Callable[[], float] = time.time) -> None:
        self._database, self._name, self._holder, self._clock = database, name, holder, clock
        self._until = 0.0

    def holds(self) -> bool:
        """Whether this process leads now; takes the lease where it is free."""
        now = self._clock()
        if self._until - now > RENEW_BELOW_S:
            return True
        free = sa.or_(leaders.c.holder == self._holder, leaders.c.until < now)
        values = {"holder": self._holder, "until": now + LEASE_S}
        with self._database.write() as connection:
            taken = connection.execute(leaders.update().where(leaders.c.name == self._name, free).values(**values))
            if taken.rowcount == 1:
                self._until = now + LEASE_S
                return True
            known = connection.execute(sa.select(leaders.c.name).where(leaders.c.name == self._name)).first()
        return known is None and self._first(values)

    def leave(self) -> None:
        """Let another lead at once."""
        self._until = 0.0
        with self._database.write() as connection:
            connection.execute(leaders.delete().where(leaders.c.name == self._name, leaders.c.holder == self._holder))

    def _first(self, values: dict[str, object]) -> bool:
        try:
            with self._database.write() as connection:
                connection.execute(leaders.insert().values(name=self._name, **values))
        except IntegrityError:  # another process was first
            return False
        self._until = self._clock() + LEASE_S
        return True
