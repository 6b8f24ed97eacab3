"""The reef's status as this process sees it: what REST answers, and the board that is told live.

Knows no request; the domain's part of it is in reef/observing/.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import msgspec
import redis

from app import __version__
from reef.contracts.system import BetterModel, ModelStatus, RunCounts, SystemStatus
from reef.knowledge import heartbeat
from reef.ledger import Ledger
from reef.ledger.survey import Listed, list_jobs
from reef.models.catalogue import CatalogueEntry, load_catalogue
from reef.nodes import Reports, read_reports
from reef.observing.board import Board, board
from reef.observing.overview import Overview
from reef.settings import Settings
from reef.topology import CHAT_POOL

OK = "ok"
DOES_NOT_ANSWER = "does not answer"
SHOWN_MAX: dict[Listed, int] = {"running": 100, "queued": 50, "dead": 50}
"""So many jobs of each state are told live; GET /api/v1/system/jobs has more."""
VECTORS_EVERY_S = 5.0
"""How often the live board asks the vector index for a sign of life."""


class GatewayState(NamedTuple):
    """ok, down or off, and the WebSockets that are open here and there."""

    state: str
    sockets_open: int


class ReefStatus:
    """Safe to share between threads."""

    def __init__(
        self,
        settings: Settings,
        ledger: Ledger,
        client: redis.Redis,
        overview: Overview,
        gateway: Callable[[], GatewayState] = lambda: GatewayState("off", 0),
    ) -> None:
        """`gateway` says how that is, and how many WebSockets there are."""
        self._settings, self._ledger, self._client, self._overview = settings, ledger, client, overview
        self._gateway = gateway
        self._vectors_at, self._vectors = 0.0, "off"

    def take(self) -> SystemStatus:
        """The status now. Devices are missing while the broker is down. Raises sqlalchemy.exc.SQLAlchemyError."""
        broker = self.broker()
        reports = self.reports() if broker == OK else {}
        gateway = self._gateway()
        status = self._status(reports, OK if broker == OK else "down", self.vectors())
        return msgspec.structs.replace(status, gateway=gateway.state, sockets_open=gateway.sockets_open)

    def board(self) -> Board:
        """The status now and the jobs to show with it. Raises redis.RedisError and sqlalchemy.exc.SQLAlchemyError."""
        reports = read_reports(self._client)
        if time.monotonic() - self._vectors_at > VECTORS_EVERY_S:
            self._vectors, self._vectors_at = self.vectors(), time.monotonic()
        shown = [job for state, most in SHOWN_MAX.items() for job in list_jobs(self._ledger, state, most)]
        return board(self._status(reports, OK, self._vectors), shown)

    def reports(self) -> Reports:
        """What the workers say that are alive; nothing while the broker does not answer."""
        try:
            return read_reports(self._client)
        except (redis.RedisError, OSError):
            return {}

    def broker(self) -> str:
        """ok, or what is wrong with it."""
        try:
            self._client.ping()
        except (redis.RedisError, OSError):
            return DOES_NOT_ANSWER
        return OK

    def vectors(self) -> str:
        """ok, down or off."""
        if not self._settings.chroma_url:
            return "off"
        return OK if heartbeat.beats(self._settings.chroma_url) else "down"

    def _status(self, reports: Reports, broker: str, vectors: str) -> SystemStatus:
        seen = self._overview.look(reports)
        counts = self._ledger.counts()
        allocation = self._overview.topology.allocation
        return SystemStatus(
            version=__version__,
            model=self._model(reports),
            pools=seen.pools,
            unplaced=seen.unplaced,
            runs=RunCounts(counts.get("queued", 0), counts.get("running", 0), counts.get("dead", 0)),
            flower_url=self._settings.flower_url,
            database=self._ledger.database.kind,
            broker=broker,
            vectors=vectors,
            at=round(time.time(), 3),
            strategy=allocation.strategy if allocation else "",
            grpc=self._settings.grpc_address,
        )

    def _model(self, reports: Reports) -> ModelStatus:
        serving = [report for report in reports.values() if report.pool == CHAT_POOL and report.model]
        # what a simulated device says answers nobody
        serving.sort(key=lambda report: (report.simulated, report.node))
        loaded = serving[0].model if serving else ""
        name = loaded or self._overview.topology.pool(CHAT_POOL).model
        catalogue = _catalogue()
        entry = catalogue.get(name)
        if entry is None:
            return ModelStatus(name=name, title=Path(name).stem or name, demo=False)
        offer = catalogue.get(entry.better)
        # `up --model` fetches what is not there yet: one step
        better = BetterModel(offer.title, f"make run MODEL={offer.name}") if offer else None
        return ModelStatus(name=name, title=entry.title, demo=entry.demo, better=better)


@functools.cache
def _catalogue() -> dict[str, CatalogueEntry]:
    return load_catalogue()
