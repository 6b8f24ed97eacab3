"""Places in the database: one row a node. The newest decision wins; a writer that saw an older one is refused."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.placement.model import Place
from reef.records.database import Database
from reef.records.tables import placements

QUEUES_FILE = "queues.yaml"
"""Who decided where nobody does any more: the row stays, so that the next decision has a higher number than the last,
but nobody sees it."""
_LISTS = ("routes", "resident", "peers")


class Outdated(Exception):
    """Somebody decided about this node meanwhile: look again."""


class PlacementStore:
    """Safe to share between threads and processes."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self.database, self.clock = database, clock

    def get(self, node: str) -> Place | None:
        """A node's place; None where nobody ever decided."""
        with self.database.read() as connection:
            return _standing(_row_of(connection, node))

    def all(self) -> dict[str, Place]:
        """Every place, by node."""
        with self.database.read() as connection:
            stands = sa.select(placements).where(placements.c.decided_by != QUEUES_FILE).order_by(placements.c.node)
            return {row["node"]: _place(dict(row)) for row in connection.execute(stands).mappings()}

    def put(self, places: Sequence[Place]) -> list[Place]:
        """Store these decisions, all or none; each must carry the version it was made from (0: there was none).

        Gives them with their new versions; one that changes nothing, not even who decided, keeps its version.
        Raises Outdated.
        """
        stored = []
        with self.database.write() as connection:
            for place in places:
                stored.append(self._put(connection, place))
        return stored

    def forget(self, nodes: Sequence[str]) -> None:
        """Nodes that queues.yaml does not have any more."""
        with self.database.write() as connection:
            connection.execute(placements.delete().where(placements.c.node.in_(list(nodes))))

    def _put(self, connection: sa.Connection, place: Place) -> Place:
        row = _row_of(connection, place.node)
        known = _standing(row)
        if place.version != (known.version if known else 0):
            raise Outdated(place.node)
        if known and same(known, place) and known.decided_by == place.decided_by:
            return known
        version = row["version"] + 1 if row else 1
        fresh = msgspec.structs.replace(place, version=version, decided_at=self.clock())
        if row is None:
            connection.execute(placements.insert().values(**_row(fresh)))
        else:
            connection.execute(placements.update().where(placements.c.node == fresh.node).values(**_row(fresh)))
        return fresh


def _row_of(connection: sa.Connection, node: str) -> dict[str, Any] | None:
    row = connection.execute(sa.select(placements).where(placements.c.node == node)).mappings().first()
    return dict(row) if row else None


def _standing(row: dict[str, Any] | None) -> Place | None:
    return _place(row) if row and row["decided_by"] != QUEUES_FILE else None


def same(one: Place, other: Place) -> bool:
    """Whether two decisions ask for the same."""
    plain = {"reason": "", "decided_by": "", "version": 0, "decided_at": 0.0}
    return bool(msgspec.structs.replace(one, **plain) == msgspec.structs.replace(other, **plain))


def _row(place: Place) -> dict[str, Any]:
    values = msgspec.structs.asdict(place)
    return values | {name: msgspec.json.encode(values[name]).decode() for name in _LISTS}


def _place(row: dict[str, Any]) -> Place:
    return Place(**row | {name: tuple(msgspec.json.decode(row[name])) for name in _LISTS})
