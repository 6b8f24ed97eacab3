"""The part of the sweeper process that looks after devices: who is there, what they should serve, where hints lie.

A thread of its own, because a round of the sweeper may take seconds and a dead device's work has to move sooner.
"""

from __future__ import annotations

import logging
import os
import socket
import threading
import time
from typing import Any

import redis
import sqlalchemy.exc

from reef import keys
from reef.contracts.nodes import read_vitals
from reef.placement.controller import Controller
from reef.placement.operator import nodes_of
from reef.placement.presence import Watch
from reef.records.database import Database
from reef.topology import Topology
from tasks.rescue import Rescue

log = logging.getLogger(__name__)

LOOK_EVERY_S = 0.25
"""How often it is seen who is there. With presence.SILENT_S: a dead device's work moves within three seconds."""
DECIDE_EVERY_S = 0.5
"""How often demand is looked at and the strategy asked; at once when a worker has gone or come back."""
CLOSE_WAIT_S = 5.0


class Placing:
    """Begins at once; close it."""

    def __init__(self, topology: Topology, database: Database, client: redis.Redis, speed: float = 1.0) -> None:
        """`speed` shortens every wait (tests)."""
        self._client, self._speed = client, speed
        self._nodes = nodes_of(topology)
        self._gone: list[str] = []
        self._decided = 0.0
        self._watch = Watch(speed=speed)
        self._rescue = Rescue(client, topology)
        holder = f"{socket.gethostname()}:{os.getpid()}:{id(self)}"
        self._controller = Controller(topology, database, client, self._watch, holder)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._loop, name="placing", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Look no more; another sweeper may lead at once."""
        self._closing.set()
        self._thread.join(CLOSE_WAIT_S)
        try:
            self._controller.leave()
        except sqlalchemy.exc.SQLAlchemyError:
            log.debug("the lease of the controller runs out: the database does not answer")

    def _loop(self) -> None:
        while not self._closing.wait(LOOK_EVERY_S / self._speed):
            try:
                self._look()
            except (redis.RedisError, OSError) as error:
                log.warning("devices are not looked after: the broker does not answer (%s)", error)
            except sqlalchemy.exc.SQLAlchemyError as error:
                log.warning("devices are not looked after: the database does not answer (%s)", error)
            except Exception:
                log.exception("devices are not looked after in this round")

    def _look(self) -> None:
        raw: Any = self._client.hvals(keys.NODES)
        self._watch.see(read_vitals(raw))
        self._rescue.look(self._watch)
        gone, now = self._watch.gone(self._nodes), time.monotonic()
        if gone != self._gone or now - self._decided >= DECIDE_EVERY_S / self._speed:
            self._gone, self._decided = gone, now
            self._controller.look()
