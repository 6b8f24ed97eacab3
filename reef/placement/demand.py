"""How much each route of each pool is asked for: read from the ledger, which knows
every job whatever became of its hint.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.ledger import Ledger
from reef.placement.view import Need
from reef.records.tables import ACTIVE_STATES, jobs

RECENT_S = 3600.0
"""What was asked for this long ago still counts as use."""
RECENT_EVERY_S = 5.0
"""Ended jobs are counted again after this time: there may be thousands, while those that wait are few."""

_DUE = sa.case((jobs.c.not_before > jobs.c.created_at, jobs.c.not_before), else_=jobs.c.created_at)
_ACTIVE = (
    sa.select(jobs.c.pool, jobs.c.route, jobs.c.state, sa.func.count().label("times"), sa.func.min(_DUE).label("since"))
    .where(jobs.c.state.in_(ACTIVE_STATES), jobs.c.not_before <= sa.bindparam("now", type_=sa.Double))
    .group_by(jobs.c.pool, jobs.c.route, jobs.c.state)
)
_ENDED = (
    sa.select(jobs.c.route, sa.func.count().label("times"), sa.func.max(jobs.c.finished_at).label("last"))
    .where(
        jobs.c.state == "done",
        jobs.c.pool == sa.bindparam("of_pool"),
        jobs.c.created_at > sa.bindparam("since", type_=sa.Double),
    )
    .group_by(jobs.c.route)
)


class Demand:
    """Reads needs. Remembers only what is dear to count."""

    def __init__(self, ledger: Ledger, pools: Iterable[str]) -> None:
        self._ledger, self._pools = ledger, list(pools)
        self._counted_at = 0.0
        self._ended: dict[tuple[str, str], tuple[int, float]] = {}

    def needs(self) -> tuple[Need, ...]:
        """What is asked of every pool now, by route. Raises sqlalchemy.exc.SQLAlchemyError."""
        now = self._ledger.clock()
        found: dict[tuple[str, str], dict[str, Any]] = {}
        with self._ledger.database.read() as connection:
            if not 0.0 <= now - self._counted_at < RECENT_EVERY_S:
                self._count(connection, now)
            for (pool, route), (times, last) in self._ended.items():
                found[pool, route] = {"recent": times, "idle_s": max(now - last, 0.0)}
            for row in connection.execute(_ACTIVE, {"now": now}).mappings():
                values = found.setdefault((row["pool"], row["route"] or ""), {})
                values |= {row["state"]: row["times"], "idle_s": 0.0}
                if row["state"] == "queued":
                    values["waited_s"] = max(now - row["since"], 0.0)
        return tuple(msgspec.convert({"pool": p, "route": r, **v}, Need) for (p, r), v in sorted(found.items()))

    def _count(self, connection: sa.Connection, now: float) -> None:
        self._ended = {
            (pool, row["route"] or ""): (row["times"], row["last"])
            for pool in self._pools
            for row in connection.execute(_ENDED, {"of_pool": pool, "since": now - RECENT_S}).mappings()
        }
        self._counted_at = now
