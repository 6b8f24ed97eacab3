"""Deciding what a device serves, as a controller or an operator does, and reading what its worker says of it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import msgspec
import redis
import sqlalchemy as sa
from whole_product import Reef

from reef import keys
from reef.contracts.nodes import NodeReport, decode_report
from reef.ledger import JobRecord, Ledger, NewJob
from reef.placement.model import Place
from reef.placement.store import Outdated, PlacementStore
from reef.records.database import Database
from reef.records.tables import jobs
from reef.topology import load_topology
from tasks.dispatch import Dispatcher

PATIENCE_S = 20.0


class Operator:
    """Somebody who decides about the devices of a running product."""

    def __init__(self, reef: Reef) -> None:
        self.reef = reef
        self.database = Database(reef.settings.sqlalchemy_url)
        self.redis = redis.Redis.from_url(reef.settings.redis_url)
        self.ledger = Ledger(self.database)
        self.places = PlacementStore(self.database)
        self.dispatcher = Dispatcher(reef.settings, load_topology(reef.settings.queues_file))

    def close(self) -> None:
        """Leave."""
        self.redis.close()
        self.database.dispose()

    def decide(self, node: str, *, tell: bool = True, **fields: Any) -> Place:
        """A new place for this node; what is not said is as `Place` has it."""
        stored = None
        while stored is None:
            known = self.places.get(node)
            place = Place(node=node, version=known.version if known else 0, decided_by="operator", **fields)
            # the controller of the product decides, too, as long as no operator has
            with suppress(Outdated):
                stored = self.places.put([place])[0]
        if tell:
            self.redis.publish(keys.PLACEMENT_CHANNEL, node)
        return stored

    def report(self, node: str) -> NodeReport | None:
        """What the worker says of itself now."""
        raw: Any = self.redis.hget(keys.NODES, node)
        return decode_report(raw) if raw is not None else None

    def wait(self, node: str, until: Callable[[NodeReport], bool], timeout_s: float = PATIENCE_S) -> NodeReport:
        """Its first report for which this holds."""
        deadline = time.monotonic() + timeout_s
        while True:
            report = self.report(node)
            if report is not None and until(report):
                return report
            assert time.monotonic() < deadline, f"after {timeout_s:.0f} s: {report and _plain(report)}"
            time.sleep(0.01)

    def carried_out(self, place: Place, timeout_s: float = PATIENCE_S) -> NodeReport:
        """The report of the worker that has done all that this decision asks for."""
        return self.wait(place.node, lambda report: report.place_version == place.version, timeout_s)

    def submit(self, new: NewJob, queue: str) -> JobRecord:
        """A job in the ledger with its hint on this queue."""
        with self.database.write() as connection:
            record = self.ledger.submit(connection, new, waiting_max=10_000, streams=1)
        self.hint(record, queue)
        return record

    def hint(self, record: JobRecord, queue: str) -> None:
        """A hint of a job."""
        self.dispatcher.celery.send_task(record.task, kwargs={"hint": {"job_id": record.id}}, queue=queue)

    def ended(self, ids: list[str], timeout_s: float = PATIENCE_S) -> dict[str, JobRecord]:
        """These jobs, when all have ended."""
        deadline = time.monotonic() + timeout_s
        while True:
            found = self.ledger.get_many(ids)
            if all(record.ended for record in found.values()):
                return found
            assert time.monotonic() < deadline, [record for record in found.values() if not record.ended]
            time.sleep(0.02)

    def attempts(self) -> dict[str, list[int]]:
        """How often each job was started, by how it ended."""
        found: dict[str, list[int]] = {}
        with self.database.read() as connection:
            for state, attempts in connection.execute(sa.select(jobs.c.state, jobs.c.token)):
                found.setdefault(state, []).append(attempts)
        return found


@contextmanager
def operator_of(reef: Reef) -> Iterator[Operator]:
    """Somebody who decides, for as long as it takes."""
    operator = Operator(reef)
    try:
        yield operator
    finally:
        operator.close()


def _plain(report: NodeReport) -> dict[str, Any]:
    values: dict[str, Any] = msgspec.to_builtins(report)
    values.pop("metrics", None)
    return values
