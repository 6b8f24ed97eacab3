"""A reef of simulated devices in one process: real ledger, broker, queues, controller and sweeper, light devices.

Each device is a thread with its own kombu connection and its own book of unacknowledged messages. It follows its place
as a worker does, claims through the ledger, and can be killed without a word at any point of a job.
"""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any, ClassVar

import kombu
import msgspec
import redis
import sqlalchemy as sa

from reef import keys
from reef.contracts.jobs import CompletionJob, EmbedTextsJob, Job
from reef.contracts.nodes import NodeReport
from reef.ledger import Claim, JobRecord, Ledger, NewJob
from reef.ledger.sweep import sweep
from reef.placement.model import Place
from reef.placement.store import PlacementStore
from reef.records.database import Database
from reef.records.tables import jobs, personas
from reef.settings import Settings
from reef.topology import load_topology
from tasks.celery_app import make_celery, transport_options
from tasks.dispatch import Dispatcher
from workers.placing import Placing
from workers.recovery import recover_node

ATTEMPTS_MAX = 100
LOAD_S = 0.05
POLL_S = 0.2
PULSE_S = 0.02


class InferJob(Job, frozen=True, kw_only=True):
    """Work for a pipeline."""

    TASK: ClassVar[str] = "test.media.infer"
    POOL: ClassVar[str] = "media"


WORK: dict[str, Job] = {
    "chat": CompletionJob(messages=[], tokens_max=1),
    "embed": EmbedTextsJob(texts=[]),
    "media": InferJob(),
}


class Killed(BaseException):
    """Stands for SIGKILL: no handler of the product catches it."""


class Device(threading.Thread):
    """The worker of one simulated device."""

    def __init__(self, shoal: Shoal, node: str) -> None:
        super().__init__(name=node, daemon=True)
        self.shoal, self.node = shoal, node
        self.doomed = threading.Event()
        """It dies at one of its next steps."""
        self.dead = False
        self.left_alone = threading.Event()
        """Its device is in quarantine: it speaks, and takes nothing."""
        self.place = Place(node=node)
        self.loading = ""
        self.running = 0
        self.queues: list[str] = []
        self.chance = random.Random(f"{shoal.seed}-{node}-{time.monotonic()}")

    # --- what a worker says

    def report(self) -> NodeReport:
        place = self.place
        return NodeReport(
            node=self.node,
            pool=place.pool,
            device=self.node,
            kind="simulated",
            host=self.node,
            pid=1,
            at=time.time(),
            state="quarantined" if self.left_alone.is_set() else "ready" if place.pool else "loading",
            running=self.running,
            simulated=True,
            tier=place.tier,
            general=place.general and bool(place.pool),
            routes=place.routes,
            resident=place.resident,
            loading=self.loading,
            place_version=place.version,
        )

    # --- what a worker does

    def run(self) -> None:
        settings = self.shoal.settings.changed(node=self.node)
        options = transport_options(settings) | {"polling_interval": POLL_S / self.shoal.speed}
        connection = kombu.Connection(settings.redis_url, transport_options=options)
        try:
            channel = connection.channel()
            # the collector of this process must not put back what a dead worker held
            channel.qos.restore_at_shutdown = False
            consumer = kombu.Consumer(channel, on_message=self._take, prefetch_count=1)
            consumer.consume()
            while self.left_alone.is_set() and not self.shoal.closing.wait(PULSE_S):
                self._die_if_told()
            while not self.shoal.closing.is_set():
                self._follow(consumer)
                self._die_if_told()
                try:
                    connection.drain_events(timeout=POLL_S / self.shoal.speed)
                except TimeoutError:
                    continue
        except Killed:
            self.dead = True
            self.shoal.deaths.append((self.node, time.time()))
        finally:
            channel.connection.client.transport_options = {}
            for pool in (channel.pool, channel.async_pool):
                pool.disconnect()

    def _follow(self, consumer: Any) -> None:
        """The level: what should be served is compared with what is."""
        place = self.shoal.places.get(self.node)
        if place is None or place.version == self.place.version:
            return
        if place.model != self.place.model and place.model not in self.place.resident:
            self.loading = place.model or "its own"
            time.sleep(LOAD_S)
            self.loading = ""
        wanted = self._queues(place)
        for name in set(self.queues) - set(wanted):
            consumer.cancel_by_queue(name)
        for name in wanted:
            if name not in self.queues:
                consumer.add_queue(self.shoal.celery.amqp.queues[name])
        consumer.consume()
        self.queues, self.place = wanted, place
        self.shoal.beat(self)

    def _queues(self, place: Place) -> list[str]:
        if not place.pool:
            return []
        queue = self.shoal.topology.pool(place.pool).queue
        routed = [keys.route_queue(queue, route) for route in place.routes]
        return [keys.node_queue(queue, self.node), *routed, *([queue] if place.general else [])]

    def _die_if_told(self) -> None:
        if self.doomed.is_set():
            raise Killed

    def _perhaps_die(self) -> None:
        """Death comes between any two steps."""
        if self.doomed.is_set() and self.chance.random() < 0.5:
            raise Killed

    def _take(self, message: Any) -> None:
        job_id = message.payload[1]["hint"]["job_id"]
        self.shoal.held.append((job_id, self.node, time.time()))
        self._perhaps_die()
        pool = self.shoal.topology.pool(self.place.pool)
        claim = self.shoal.ledger.claim(job_id, self.node, pool.limits.lease_s / self.shoal.speed)
        self._perhaps_die()
        if claim is not None:
            self.shoal.held.append((job_id, self.node, time.time()))
            self.running = 1
            try:
                self._work(claim)
            finally:
                self.running = 0
        self._perhaps_die()
        message.ack()

    def _work(self, claim: Claim) -> None:
        for node in self.place.peers or (self.node,):
            if self.doomed.wait(self.shoal.work_s / max(len(self.place.peers), 1)):
                raise Killed
            if self.place.peers and not self.shoal.is_alive(node):
                self.shoal.ledger.retry_later(claim, f"stage {node} does not answer", 0.1 / self.shoal.speed)
                return

        def effect(_connection: sa.Connection) -> None:
            with self.shoal.effects.open("a", encoding="utf-8") as file:
                file.write(f"{claim.job.id} {self.node} {time.time()}\n")

        self.shoal.ledger.finish(claim, "done", result={}, within=effect)


class Shoal:
    """All of it. `speed` shortens every time of the product and of the devices alike."""

    def __init__(
        self, directory: Path, redis_url: str, queues: str, *, speed: float = 1.0, work_s: float = 0.1, seed: int = 0
    ) -> None:
        (directory / "queues.yaml").write_text(queues, encoding="utf-8")
        self.settings = Settings(data_dir=directory, redis_url=redis_url, queues_file=directory / "queues.yaml")
        self.topology = load_topology(self.settings.queues_file)
        self.speed, self.work_s, self.seed = speed, work_s / speed, seed
        self.chance = random.Random(seed)
        self.database = Database(self.settings.sqlalchemy_url, busy_timeout_s=20.0)
        self.ledger = Ledger(self.database)
        self.celery = make_celery(self.settings.changed(node="shoal"))
        self.dispatcher = Dispatcher(self.settings.changed(node="shoal"), self.topology, self.celery)
        self.redis = redis.Redis.from_url(redis_url)
        self.store = PlacementStore(self.database)
        self.effects = directory / "effects"
        self.effects.touch()
        self.stalled_s = 0.0
        """How long this process was kept from running at worst: everything in it was late by that."""
        self.closing = threading.Event()
        self.places: dict[str, Place] = {}
        self.devices: dict[str, Device] = {}
        self.deaths: list[tuple[str, float]] = []
        self.held: list[tuple[str, str, float]] = []
        """Which device took the hint or the claim of which job, and when."""
        self.nodes = [device.node for device in self.topology.allocated]
        self._threads = [
            threading.Thread(target=loop, daemon=True)
            for loop in (self._beat_all, self._read_places, self._sweep, self._feel_the_pulse)
        ]
        self.placing = Placing(self.topology, self.database, self.redis, speed=speed)
        for node in self.nodes:
            self.start(node)
        for thread in self._threads:
            thread.start()

    # --- devices

    def start(self, node: str, *, left_alone: bool = False) -> None:
        """A device begins, or begins anew; one that is `left_alone` serves when that is cleared.

        As `coral-reef worker` does, it frees first what the one before it left: in its book a hint that is not claimed
        would lie while the node is alive again, until it is sent once more.
        """
        if node in self.devices:
            recover_node(self.settings, node)
        device = Device(self, node)
        if left_alone:
            device.left_alone.set()
        self.devices[node] = device
        self.beat(device)
        device.start()

    def is_alive(self, node: str) -> bool:
        return not self.devices[node].dead

    def kill(self, node: str, *, seen: bool = False) -> None:
        """kill -9. `seen`: a supervisor notices, as on the machine itself; else nobody says a word."""
        device = self.devices[node]
        device.doomed.set()
        if seen:
            device.join(10)
            recover_node(self.settings, node)

    def beat(self, device: Device) -> None:
        self.redis.hset(keys.NODES, device.node, msgspec.json.encode(device.report()))  # type: ignore[arg-type]

    def _beat_all(self) -> None:
        while not self.closing.wait(1.0 / self.speed):
            for device in list(self.devices.values()):
                if not device.dead:
                    self.beat(device)

    def _feel_the_pulse(self) -> None:
        before = time.monotonic()
        while not self.closing.wait(PULSE_S):
            now = time.monotonic()
            self.stalled_s = max(self.stalled_s, now - before - PULSE_S)
            before = now

    def _read_places(self) -> None:
        with self.redis.pubsub(ignore_subscribe_messages=True) as channel:
            channel.subscribe(keys.PLACEMENT_CHANNEL)
            while not self.closing.is_set():
                self.places = self.store.all()
                channel.get_message(timeout=0.5 / self.speed)

    def _sweep(self) -> None:
        while not self.closing.wait(0.5 / self.speed):
            sweep(
                self.ledger,
                self.dispatcher.send_again,
                self.dispatcher.pending,
                resend_after_s=5.0 / self.speed,
            )

    # --- jobs

    def submit(self, pool: str, route: str | None = None) -> JobRecord:
        """Accept a job and send its hint."""
        new = NewJob(job=WORK[pool], deadline_s=60, attempts_max=ATTEMPTS_MAX, route=route)
        with self.database.write() as connection:
            record = self.ledger.submit(connection, new, waiting_max=10_000, streams=1)
        self.dispatcher.send(record)
        return record

    def add_personas(self, ids: Sequence[str], model: str = "") -> None:
        """Personas that may be talked to, and nobody else."""
        with self.database.write() as connection:
            connection.execute(personas.delete())
            for number, name in enumerate(ids):
                values = {"id": name, "name": name, "model": model, "created_at": number, "updated_at": 0.0}
                connection.execute(personas.insert().values(**values))

    def wait_placed(self, timeout_s: float = 10.0) -> None:
        """Until every live device does what its place says."""
        self.wait(lambda: len(self.places) == len(self.nodes) and self._settled(), timeout_s)

    def _settled(self) -> bool:
        return all(
            device.place.version == self.places[node].version
            for node, device in self.devices.items()
            if not device.dead
        )

    def wait(self, until: Any, timeout_s: float) -> None:
        deadline = time.monotonic() + timeout_s
        while not until():
            assert time.monotonic() < deadline, self.state()
            time.sleep(0.02)

    def wait_done(self, records: Sequence[JobRecord], timeout_s: float = 20.0) -> None:
        """Until every job has ended."""
        self.wait(lambda: self._open(records) == 0, timeout_s)

    def _open(self, records: Sequence[JobRecord]) -> int:
        query = sa.select(sa.func.count()).where(jobs.c.state.in_(("queued", "running")))
        with self.database.read() as connection:
            return int(connection.execute(query).scalar_one())

    def state(self) -> dict[str, Any]:
        """For a person who reads why a test failed."""
        with self.database.read() as connection:
            rows = connection.execute(
                sa.select(jobs.c.pool, jobs.c.route, jobs.c.state, jobs.c.owner, sa.func.count()).group_by(
                    jobs.c.pool, jobs.c.route, jobs.c.state, jobs.c.owner
                )
            )
            counts = [tuple(row) for row in rows if row[2] != "done"]
        return {
            "jobs": counts,
            "pending": {pool: self.dispatcher.pending(pool) for pool in self.topology.pools},
            "dead": [node for node in self.nodes if not self.is_alive(node)],
            "places": {n: (p.pool, p.tier, p.general, p.routes) for n, p in self.places.items()},
            "seed": self.seed,
        }

    # --- the checker

    def check(self, records: Sequence[JobRecord]) -> None:
        """Every accepted job is done in the ledger and had its effect once."""
        found = self.ledger.get_many([record.id for record in records])
        states = Counter(record.state for record in found.values())
        assert states == {"done": len(records)}, (states, self.state())
        effects = Counter(line.split()[0] for line in self.effects.read_text(encoding="utf-8").splitlines())
        assert effects == Counter(record.id for record in records), self.state()

    def moves_s(self, scarce: Collection[str] = ()) -> list[float]:
        """How long what a dead device held, hint or claim, took to be held by another: for each such job.

        A pool that is `scarce` has so few devices that all may die one after the other: there it is counted from the
        last death.
        """
        lines = [line.split() for line in self.effects.read_text(encoding="utf-8").splitlines()]
        done_at = {job_id: float(at) for job_id, _, at in lines}
        done_by = {job_id: node for job_id, node, _ in lines}
        pools = {job_id: record.pool for job_id, record in self.ledger.get_many(done_at).items()}
        taken = []
        for node, died_at in self.deaths:
            last: dict[str, str] = {}
            for job_id, holder, at in self.held:
                if at <= died_at < done_at[job_id]:
                    last[job_id] = holder
            # one that the dying device still did with its last breath went nowhere
            for job_id in (job_id for job_id, holder in last.items() if holder == node != done_by[job_id]):
                later = min((at for job, _, at in self.held if job == job_id and at > died_at), default=None)
                if later is None:  # its lease ran out while it was held up: who did it held it already
                    continue
                deaths = [at for other, at in self.deaths if died_at <= at <= later and pools[job_id] in scarce]
                taken.append(later - max([died_at, *deaths]))
        return taken

    def close(self) -> None:
        self.closing.set()
        for thread in [*self._threads, *self.devices.values()]:
            thread.join(10)
        self.placing.close()
        self.redis.close()
        self.dispatcher.redis.close()
        self.celery.close()
        self.database.dispose()
