"""Where models are loaded, unloaded and removed on request. It validates, records and places; it fetches nothing.

A model that is here is placed at once. One that is not becomes a job of pool maintenance, in the ledger, so that the
wish survives every restart; a second wish for the same is answered with the same job.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import msgspec

from app.refusals import Refusal, unknown_pool
from reef.contracts.jobs import FetchModelJob
from reef.conversation.turns import PoolClosed
from reef.ledger import JobRecord, LaneBusy, Ledger, NewJob
from reef.models.adapters import parts_of
from reef.models.errors import ModelError, ModelMissing
from reef.models.fitting import absent_parts, check_format, check_name, needs_file
from reef.models.keeping import LANE, Keeping, wanted_twice
from reef.models.packages import free_bytes
from reef.models.states import ModelsView, overview
from reef.topology import Pool, Topology


class Loading(msgspec.Struct, frozen=True, kw_only=True):
    """What becomes of a wish to load. `job_id`: the job that fetches the model first; None: it is here."""

    model: str
    pool: str
    nodes: list[str]
    state: Literal["LOADING"] = "LOADING"
    job_id: str | None = None
    note: str


class Unloaded(msgspec.Struct, frozen=True, kw_only=True):
    """The nodes that let a model go."""

    model: str
    nodes: list[str]


class ModelDesk:
    """One per web process."""

    def __init__(self, keeping: Keeping, ledger: Ledger, topology: Topology, send: Callable[[JobRecord], None]) -> None:
        """`send` puts a job's hint on its queue; what the broker does not take is the sweeper's to send."""
        self.keeping, self._ledger, self._topology, self._send = keeping, ledger, topology, send

    def overview(self) -> ModelsView:
        """Every model there is."""
        folder = self.keeping.store.folder
        return overview(self.keeping, self._fetching(), free_bytes(folder if folder.is_dir() else folder.parent))

    def load(self, model: str, pool: str, nodes: Sequence[str], source: str, sha256: str) -> Loading:
        """Have these nodes (none named: all of the pool) serve a model.

        Raises ModelError and its kin, UnknownNode, PoolClosed, PoolFull, Refusal.
        """
        devices = self.keeping.serving.nodes(self._pool(pool).name, nodes)
        check_name(model, self._pool(pool), devices.values())
        if not needs_file(self._pool(pool), devices.values()):
            return self._place(model, pool, list(devices), f"{model} is served without a file of ours")
        if source:
            self._check_source(source)
        if self._here(model, self._pool(pool), source, sha256):
            return self._place(model, pool, list(devices), f"{model} is on this machine; its devices load it")
        job = FetchModelJob(model=model, source=source, sha256=sha256, pool=pool, nodes=list(devices))
        record = self._accept(job)
        note = f"{model} is fetched first, then its devices load it"
        return Loading(model=model, pool=pool, nodes=list(devices), job_id=record.id, note=note)

    def unload(self, model: str, pool: str, nodes: Sequence[str]) -> Unloaded:
        """Take a model out of the memory of these nodes (none named: all of the pool).

        Raises Refusal, and what Keeping.unload raises.
        """
        return Unloaded(model=model, nodes=self.keeping.unload(model, self._pool(pool).name, nodes))

    def remove(self, name: str) -> None:
        """Take a model from the disk. Raises ModelMissing, ModelInUse."""
        if name in self._fetching():
            raise Refusal(409, "being_fetched", "Being fetched", f"{name} is being fetched; stop that run first.")
        self.keeping.remove(name)

    def pin(self, name: str, *, pinned: bool) -> None:
        """Keep a model on the disk whatever else needs room, or no longer. Raises ModelMissing."""
        self.keeping.registry.pin(name, pinned)

    def _pool(self, name: str) -> Pool:
        if name not in self._topology.pools:
            raise unknown_pool(name, self._topology.pools)
        return self._topology.pools[name]

    def _check_source(self, source: str) -> None:
        try:
            self.keeping.outside.check_url(source)
        except ModelError as error:
            raise Refusal(422, "bad_source", "Not fetched from there", str(error)) from None

    def _here(self, model: str, pool: Pool, source: str, sha256: str) -> bool:
        """Whether the model can be placed now. Raises ModelMissing where nobody knows it, ModelError where it is bad.

        Nothing is hashed here: where a hash is asked for that nobody knows yet, a job finds it out.
        """
        store = self.keeping.store
        base, *_ = parts = parts_of(model)
        try:
            absent = absent_parts(store, model, pool, source)
        except ModelMissing as error:
            raise ModelMissing(f"{error}{self._advice(parts)}") from None
        if base in absent:
            listed = store.catalogue.get(base)
            check_format(listed.format if listed is not None and not source else "", pool)
        if absent:
            return False
        path = store.files().get(parts[-1])
        return not sha256 or (path is not None and store.known_sha256(path) == sha256)

    def _advice(self, parts: Sequence[str]) -> str:
        """What to do about a name that nobody can fetch by itself."""
        if not self.keeping.store.parts.all().keys().isdisjoint(parts):
            return " Give its address as `source`, and the rest is fetched; or remove it."
        if not {*self.keeping.store.encoders()}.isdisjoint(parts):
            return ""
        return " GET /api/v1/system/models lists all; any other is fetched from the address that you give as `source`."

    def _place(self, model: str, pool: str, nodes: list[str], note: str) -> Loading:
        self.keeping.decisions.load(model, pool, nodes)
        self.keeping.registry.used(parts_of(model))
        self.keeping.teller.tell(model, "LOADING", note, share=0.0)
        return Loading(model=model, pool=pool, nodes=nodes, note=note)

    def _accept(self, job: FetchModelJob) -> JobRecord:
        pool = self._topology.pools.get(job.POOL)
        if pool is None or not pool.devices:
            raise PoolClosed(
                f"{job.model} is not on this machine, and queues.yaml gives pool {job.POOL} no device that could fetch "
                f"it. On the machine, `coral-reef models pull` does it."
            )
        new = NewJob(
            job=job,
            deadline_s=pool.limits.deadline_s,
            attempts_max=pool.limits.attempts_max,
            lane=LANE.format(name=job.model),
        )
        try:
            with self._ledger.database.write() as connection:
                streams = pool.streams * len(pool.devices)
                record = self._ledger.submit(connection, new, waiting_max=pool.limits.waiting_max, streams=streams)
        except LaneBusy as error:
            return self._same(job, self._ledger.get(error.job_id))
        self.keeping.teller.tell(job.model, "LOADING", "waits to be fetched", share=0.0)
        self._send(record)
        return record

    def _same(self, job: FetchModelJob, running: JobRecord) -> JobRecord:
        other = msgspec.json.decode(running.payload, type=FetchModelJob)
        if not wanted_twice(job, other):
            where = f"pool {other.pool}, {', '.join(other.nodes)}" if other.nodes else "nobody yet"
            detail = f"{job.model} is being fetched already (for {where}). Wait for it, or stop run {running.id}."
            raise Refusal(409, "being_fetched", "Being fetched", detail, run_id=running.id)
        return running

    def _fetching(self) -> dict[str, FetchModelJob]:
        found = self._ledger.active_of(FetchModelJob.TASK)
        jobs = [msgspec.json.decode(record.payload, type=FetchModelJob) for record in found]
        return {job.model: job for job in jobs}
