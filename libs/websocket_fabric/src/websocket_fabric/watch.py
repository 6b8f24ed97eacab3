"""Time: who is silent, who is too slow to shake hands or to leave. One timer a server, none a connection.

A wheel: each connection stands in the place of the tick at which it must be looked at again, and nobody looks at it
before. With an idle time of 50 s, 10,000 connections cost 200 looks a second.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING

from websocket_fabric.limits import Limits

if TYPE_CHECKING:
    from websocket_fabric.connection import Connection

SWEEP_S = 1.0
"""The tick, unless a limit is so short that it needs a finer one."""
TICKS_A_LIMIT_MIN = 4
SPREAD = 8
"""Connections that opened together are pinged apart: over the last 1/8 of the idle time."""


class Watch:
    """A server's clock and the connections it will look at."""

    def __init__(self, limits: Limits) -> None:
        times_s = (limits.handshake_timeout_s, limits.idle_timeout_s, limits.ping_timeout_s, limits.close_timeout_s)
        self.sweep_s = min(SWEEP_S, min(times_s) / TICKS_A_LIMIT_MIN)
        self.handshake, self.idle, self.ping, self.close = (math.ceil(one / self.sweep_s) for one in times_s)
        self.tick = 0
        self._wheel: dict[int, dict[Connection, None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._spread = max(1, self.idle // SPREAD)
        self._turn = 0

    def start(self) -> None:
        """Begin to tick."""
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(self.sweep_s, self._sweep)

    def stop(self) -> None:
        """Stop ticking."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def look(self, connection: Connection, ticks: int) -> None:
        """Look at it after so many ticks, and not before."""
        self.forget(connection)
        # the current tick may be half over: one more, so that nobody gets less than the time stated
        connection.due = due = self.tick + ticks + 1
        self._wheel.setdefault(due, {})[connection] = None

    def idle_ticks(self) -> int:
        """Until a connection that opens now is looked at for the first time."""
        self._turn = (self._turn + 1) % self._spread
        return self.idle - self._turn

    def forget(self, connection: Connection) -> None:
        """Never look at it again."""
        place = self._wheel.get(connection.due)
        if place is not None:
            place.pop(connection, None)

    def _sweep(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self.sweep_s, self._sweep)
        self.advance()

    def advance(self) -> None:
        """One tick: look at those whose time has come."""
        self.tick += 1
        for connection in self._wheel.pop(self.tick, ()):
            ticks = connection.look()
            if ticks > 0:
                self.look(connection, ticks)
