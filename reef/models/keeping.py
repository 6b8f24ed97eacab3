"""The parts of the model manager of one process, and what they do together: fetch, place, take away."""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping, Sequence

import msgspec
import redis

from reef.contracts.jobs import FetchModelJob
from reef.contracts.nodes import NodeReport
from reef.models.adapters import parts_of
from reef.models.cache import ModelCache, Removed, reasons
from reef.models.errors import ModelError, ModelInUse, ModelMissing, NotLoaded
from reef.models.fitting import check_format
from reef.models.outside import Outside
from reef.models.registry import Registry
from reef.models.serving import Serving, loaded_names, named, placed
from reef.models.store import ModelFile, ModelStore
from reef.models.telling import Teller
from reef.models.tflite import asked_as
from reef.nodes import read_reports
from reef.placement.announcing import announce
from reef.placement.operator import Decisions
from reef.placement.store import PlacementStore
from reef.ports import Progress
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import Topology

log = logging.getLogger(__name__)

LANE = "model:{name}"
"""One job at a time brings a model."""


class Keeping:
    """Everything that is done with models in this process, except computing with them."""

    def __init__(self, settings: Settings, topology: Topology, database: Database, client: redis.Redis) -> None:
        self.topology, self._client = topology, client
        self.store = ModelStore(settings.data_dir)
        self.registry = Registry(database, self.store)
        self.cache = ModelCache(self.store, settings.model_cache_bytes)
        places = PlacementStore(database)
        self.serving = Serving(topology, places, client)
        self.decisions = Decisions(places, topology, self.store, functools.partial(announce, client))
        self.outside = Outside(settings.model_url_hosts, settings.model_cache_bytes)
        self.teller = Teller(client)

    def reports(self) -> dict[str, NodeReport]:
        """What the workers say that are alive; nothing where the broker does not answer."""
        try:
            return read_reports(self._client)
        except (redis.RedisError, OSError):
            return {}

    def kept(self) -> dict[str, str]:
        """Models that must stay on disk, each with the reason. Raises ModelError where nobody can say."""
        try:
            reports = read_reports(self._client)
        except (redis.RedisError, OSError) as error:
            raise ModelError(f"Nobody can say which models are loaded ({error}), so none is taken away.") from error
        return self.stays(reports)

    def stays(self, reports: Mapping[str, NodeReport]) -> dict[str, str]:
        """The same where these are the reports of all workers."""
        pinned = [record.name for record in self.registry.all().values() if record.pinned]
        loading = {part for report in reports.values() if report.loading for part in parts_of(report.loading)}
        return reasons(
            loaded=sorted({*loaded_names(reports), *loading}),
            placed=sorted(self.store.named_by(placed(self.serving.places))),
            pinned=pinned,
            named=sorted(self.store.named_by(named(self.topology))),
        )

    def fetch(self, job: FetchModelJob, progress: Progress) -> ModelFile:
        """Bring every part of a model (`base+adapter`) here and check it. Raises ModelError."""
        base, *adapters = parts_of(job.model)
        self._fetch_part(base, job.source if not adapters else "", job.sha256 if not adapters else "", progress)
        for number, name in enumerate(adapters, start=1):
            last = number == len(adapters)
            self._fetch_part(name, job.source if last else "", job.sha256 if last else "", progress)
        model = self.store.resolve(job.model)
        if job.pool:
            check_format(model.format, self.topology.pool(job.pool))
        self.registry.refresh()
        return model

    def unload(self, model: str, pool_name: str, nodes: Sequence[str] = ()) -> list[str]:
        """Take a model out of the memory of these devices of a pool (none named: all of them).

        Gives those that let it go: a place gave it to them, or an inference loaded it. Raises KeyError for an unknown
        pool, UnknownNode, ModelMissing for a model that nobody knows, NotLoaded, and ModelInUse where it is there
        because queues.yaml or a strategy says so.
        """
        if (asked := asked_as(model)) == self.topology.pool(pool_name).model:
            model = asked
        wanted, reports = list(self.serving.nodes(pool_name, nodes)), self.reports()
        self._check_known(model, reports)
        held = [node for node in wanted if node in reports and model in reports[node].resident]
        try:
            changed = [place.node for place in self.decisions.unload(model, pool_name, wanted)]
        except NotLoaded:
            if not held:
                raise
            changed = []
        changed += self.serving.drop(model, [node for node in held if node not in changed])
        if changed:  # else the broker is away, and nobody lets go
            self.teller.tell(model, "CACHED", f"{model} leaves {', '.join(changed)}")
        return changed

    def _check_known(self, model: str, reports: Mapping[str, NodeReport]) -> None:
        """Raises ModelMissing where it is nobody's name."""
        named_there = {name for place in self.serving.places.all().values() for name in (place.model, *place.resident)}
        known = {*self.store.files(), *self.store.catalogue, *loaded_names(reports), *named(self.topology)}
        if model not in named_there and not {*parts_of(model)} <= known:
            raise ModelMissing(self.store.unknown(model))

    def remove(self, name: str) -> int:
        """Take a model from the disk; gives its bytes. Raises ModelMissing, and ModelInUse where it is needed."""
        self.registry.refresh()
        record = self.registry.all().get(name)
        if record is None or not record.path:
            return self._remove_begun(name, known=record is not None)
        if record.format == "encoder":
            raise ModelInUse(
                f"{name} belongs to the embedding library; delete {record.path} while the reef is stopped."
            )
        if (why := self.kept().get(name)) is not None:
            raise ModelInUse(f"{name} {why}, so it stays. Unload or unpin it first.")
        size = self.store.remove(name)
        self.registry.forget(name)
        self.teller.tell(name, "REMOVED", f"{name} was removed: {size / 1e6:.0f} MB are free again")
        return size

    def _remove_begun(self, name: str, *, known: bool) -> int:
        """Take away what has come of a model that is not whole, and the memory of a failure."""
        try:
            size = self.store.remove(name)
        except ModelMissing:
            if not known:
                raise
            size = 0
        self.registry.forget(name)
        if size:
            self.teller.tell(
                name, "REMOVED", f"what had come of {name} was removed: {size / 1e6:.0f} MB are free again"
            )
        return size

    def _fetch_part(self, name: str, source: str, sha256: str, progress: Progress) -> None:
        if not source and name not in self.store.catalogue:
            found = self.store.resolve_part(name)  # a file of the user's own
            if sha256 and found.sha256 != sha256:
                raise ModelError(f"{name} is not what was asked for: its SHA-256 is {found.sha256}, expected {sha256}.")
            return
        make_room = self.cache.room_maker(
            lambda: self.kept() | {name: "is being fetched"}, self._used_at, self._removed
        )
        model = self.store.pull(
            name, progress, url=source, sha256=sha256, guard=self.outside if source else None, make_room=make_room
        )
        entry = self.store.catalogue.get(model.name)
        self.registry.fetched(model.name, source or (str(entry.sources[0]) if entry else ""))

    def _used_at(self) -> dict[str, float]:
        return {record.name: record.used_at for record in self.registry.refresh().values()}

    def _removed(self, removed: Removed) -> None:
        if removed.partial:
            note = f"what had come of {removed.name} was removed to make room: {removed.size_bytes / 1e6:.0f} MB"
        else:
            self.registry.forget(removed.name)
            size = f"{removed.size_bytes / 1e6:.0f} MB"
            note = f"{removed.name} was removed to make room: {size}, unused for the longest time"
        self.teller.tell(removed.name, "REMOVED", note)


def wanted_twice(one: FetchModelJob, other: FetchModelJob) -> bool:
    """Whether two jobs ask for the same."""
    return msgspec.structs.replace(one, nodes=sorted(one.nodes)) == msgspec.structs.replace(
        other, nodes=sorted(other.nodes)
    )
