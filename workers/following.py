"""Following this worker's place: comparing what it should serve with what it does, and mending the difference.

Level-triggered: a look compares everything anew, whatever was missed. Looks follow an announcement, the end of a load
or of a job, and a clock; a database or a broker that is away changes nothing until it is back. Nobody who talks to the
model waits: what is wanted is loaded beside what serves, new jobs go to it when it is warm, running ones end where
they began. Only where memory has no room for both are the running jobs awaited first, and the report says so.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Literal

import sqlalchemy.exc

from reef import keys
from reef.contracts.events import ModelNotice
from reef.placement.model import Place
from reef.ports import EngineError
from reef.topology import Pool
from workers.consuming import Consuming
from workers.heartbeat import Heartbeat
from workers.hints import Strays
from workers.mounting import Mounting, shown
from workers.place_file import PlaceFile
from workers.rack import Mounted, Rack
from workers.replaying import Replaying
from workers.seat import Seat
from workers.wanted import Wanted, wanted

log = logging.getLogger(__name__)

LOOK_EVERY_S = 3.0
LOOK_SOON_S = 0.25
"""While something is being mended."""
CLOSE_WAIT_S = 3.0
IDLE_STREAMS = 1


@dataclass(frozen=True)
class Means:
    """What a difference is mended with."""

    consuming: Consuming
    heartbeat: Heartbeat
    strays: Strays
    replaying: Replaying
    read: Callable[[], Place | None]
    """The place as the database has it."""
    open_station: Callable[[Pool], None]
    """Jobs of this pool can be done here from now on."""
    announce: Callable[[ModelNotice], None]
    """Tells the operator's page, where it can."""


class Follower:
    """Of one worker, in a thread of its own."""

    def __init__(self, seat: Seat, file: PlaceFile, rack: Rack, means: Means) -> None:
        self._seat, self._file, self._rack, self._means = seat, file, rack, means
        self._consuming, self._heartbeat, self._strays = means.consuming, means.heartbeat, means.strays
        self._wake = threading.Event()
        self._closing = False
        self.mounting = Mounting(seat, rack, file, progress=means.heartbeat.progress, done=self._wake.set)
        self._draining = ""
        """Why the running jobs are awaited before the next model is loaded; empty where they are not."""
        self._crowded: set[str] = set()
        """Resident models that have no room."""
        self._served: dict[str, str] = {}
        """The last model that served each pool well."""
        self._thread = threading.Thread(target=self._loop, name="following", daemon=True)

    def start(self, mounted: Mounted | None) -> None:
        """Begin, with the engine that was loaded while the worker started."""
        if mounted is not None:
            self._served[mounted.pool] = mounted.name
        self._rack.on_change = self.look_soon
        self._thread.start()

    def look_soon(self) -> None:
        """Something may be different now."""
        self._wake.set()

    def stop(self) -> None:
        """Change nothing any more; does not wait. A load that is under way ends with the process."""
        self._closing = True
        self._wake.set()

    def close(self) -> None:
        """Stop, and wait for what is being changed just now."""
        self.stop()
        self._thread.join(CLOSE_WAIT_S)

    def _loop(self) -> None:
        while not self._closing:
            settled = False
            try:
                settled = self.look()
            except Exception:
                log.exception("the place of this worker could not be followed; it is tried again")
            self._wake.wait(LOOK_EVERY_S if settled else LOOK_SOON_S)
            self._wake.clear()

    def look(self) -> bool:
        """Compare and mend. True where nothing is left to be done."""
        want = wanted(self._place(), self._seat.own, self._seat.topology)
        self._collect()
        model = self._choose(want)
        mounted = None
        if want.pool is not None and model is not None:
            mounted = self._rack.find(want.pool.name, model) or self._bring(want.pool, model, want.version)
        if self._closing:
            return False
        settled = self._serve(want, mounted) and self._residents(want, mounted)
        self._report(want, settled and (model or "") == want.model)
        self._strays.move()
        return settled and not self.mounting.is_loading and not self._strays.any

    # --- what is wanted

    def _place(self) -> Place | None:
        try:
            place = self._means.read()
        except sqlalchemy.exc.SQLAlchemyError as error:
            log.warning("the place of this worker is what it was: the database does not answer (%s)", error)
            return self._file.known.place
        self._file.see(place)
        return place

    def _choose(self, want: Wanted) -> str | None:
        """The model to serve: what the place wants, or what served before where that cannot be loaded."""
        if want.pool is None:
            return None
        for model in (want.model, self._served.get(want.pool.name), want.pool.model):
            if model is not None and not self.mounting.refused(want.pool, model, want.version):
                return model
        return None

    # --- engines

    def _collect(self) -> None:
        """Take in what was being loaded."""
        ended = self.mounting.collect()
        if ended is None:
            return
        _pool, model, refusal = ended
        self._draining = ""
        if refusal is not None:
            self._tell(model, "FAILED", refusal.reason)

    def _bring(self, pool: Pool, model: str, version: int) -> Mounted | None:
        """Have the model loaded, making room first where there is none. Gives nothing yet."""
        if self.mounting.is_loading:
            return None
        try:
            crowded = self.mounting.why_no_room(pool, model) if not self._rack.is_empty else ""
        except EngineError as error:
            refusal = self.mounting.refuse(pool, model, version, str(error))
            self._tell(model, "FAILED", refusal.reason)
            self.look_soon()
            return None
        if crowded and not self._make_room(model, crowded):
            return None
        self._tell(shown(model), "LOADING", f"{shown(model)} is being loaded")
        self.mounting.begin(pool, model, version)
        return None

    def _make_room(self, model: str, crowded: str) -> bool:
        """Let go what is in the way, step by step; True when nothing is left that could go."""
        serving = self._rack.serving_models()
        if self._rack.drop_beside():
            log.info("models that were kept in memory make room for %s: %s", model, crowded)
            return False
        if self._rack.is_closing:
            return False
        if not self._draining:
            beside = ", ".join(serving) or "what still runs"
            self._draining = f"no room for {shown(model)} beside {beside} ({crowded}): running jobs end first"
            log.warning("%s", self._draining)
        if not self._take(Wanted(pool=None), ()):
            return False
        self._rack.refuse_all()
        self._rack.keep("", ())
        return self._rack.is_empty

    # --- jobs

    def _serve(self, want: Wanted, mounted: Mounted | None) -> bool:
        """Give new jobs to this engine, take from the queues it is for. True where that is so."""
        if want.pool is None:
            if not self._take(want, ()):
                return False
            self._rack.refuse_all()
            self._rack.keep("", ())
            return True
        if mounted is None:
            return self._keep_serving(want)
        self._draining = ""
        self._means.open_station(want.pool)
        if self._rack.serving(want.pool.name) is not mounted:
            if not self._rack.serve(mounted):
                return False
            self._served[want.pool.name] = mounted.name
            self._tell(mounted.engine.model, "READY", f"{mounted.engine.model} serves pool {want.pool.name}")
            self._means.replaying.begin(mounted)
        if not self._take(want, self._rack.names(want.pool.name)):
            return False
        for pool in self._rack.serving_pools():
            if pool != want.pool.name:
                self._rack.refuse(pool)
        self._rack.keep(want.pool.name, {mounted.name, *want.resident})
        return True

    def _keep_serving(self, want: Wanted) -> bool:
        """The engine is on its way. What serves the same pool meanwhile already takes what the place says."""
        assert want.pool is not None  # noqa: S101 - asked by the caller
        if not self._draining and self._rack.serving(want.pool.name) is not None:
            self._take(want, self._rack.names(want.pool.name))
        return False

    def _take(self, want: Wanted, models: Collection[str]) -> bool:
        """Consume what the place says and nothing else; hints in queues that were left go on to who serves them."""
        queues = want.queues(self._seat.node, models)
        before = self._consuming.open
        if not self._consuming.apply(queues, want.pool.streams if want.pool else IDLE_STREAMS):
            return False
        for queue in queues:
            self._strays.back(queue)
        for queue in set(before) - set(queues):
            for pool in self._seat.pools.values():
                if queue.startswith((f"{pool.queue}.", f"{pool.queue}/")):
                    self._strays.left(queue, pool.name, pool.queue)
        return True

    # --- models in memory beside

    def _residents(self, want: Wanted, mounted: Mounted | None) -> bool:
        """Load what should be in memory besides, as far as there is room. True where nothing is left to be loaded."""
        if want.pool is None or mounted is None:
            return True
        self._crowded &= set(want.resident)
        for model in want.resident:
            if self._rack.find(want.pool.name, model) or self.mounting.refused(want.pool, model, want.version):
                continue
            if self.mounting.is_loading:
                return False
            try:
                crowded = self.mounting.why_no_room(want.pool, model)
            except EngineError as error:
                self._tell(model, "FAILED", str(error))
                self.mounting.refuse(want.pool, model, want.version, str(error))
                continue
            if crowded:
                if model not in self._crowded:
                    log.warning("%s is not kept in memory: %s", model, crowded)
                self._crowded.add(model)
                continue
            self._crowded.discard(model)
            self.mounting.begin(want.pool, model, want.version)
            return False
        return True

    # --- telling

    def _report(self, want: Wanted, carried_out: bool) -> None:
        """Say what is so: on the way to another pool, what the one before it still gets."""
        fields: dict[str, object] = {"loading": self.mounting.loading}
        if refusal := self.mounting.latest:
            fields |= {"last_fault": refusal.reason, "last_fault_at": refusal.at}
        if carried_out:
            fields["place_version"] = want.version
        names = self._rack.serving_pools()
        if want.pool is not None and want.pool.name in names:
            names = [want.pool.name]
        if names and (serving := self._rack.serving(names[0])) is not None:
            fields |= self._serving_fields(self._seat.pools[names[0]], serving)
        else:
            fields |= {"engine": "", "model": "", "resident": (), "routes": (), "general": False}
            fields |= self._idle_fields(want)
        if names in ([], [want.pool.name if want.pool else ""]):
            fields["tier"] = want.tier
        if not self.mounting.is_loading:
            fields |= {"progress": 1.0, "note": self._note(want)}
        self._heartbeat.change(**fields)

    def _idle_fields(self, want: Wanted) -> dict[str, object]:
        if want.pool is None:
            return {"state": "ready", "pool": "", "streams": 0}
        state = "loading" if self._draining or self.mounting.is_loading else "failed"
        return {"state": state, "pool": want.pool.name, "streams": want.pool.streams}

    def _serving_fields(self, pool: Pool, serving: Mounted) -> dict[str, object]:
        taken, prefix = self._consuming.open, keys.route_queue(pool.queue, "")
        return {
            "state": "ready",
            "pool": pool.name,
            "engine": serving.engine.name,
            "model": serving.engine.model,
            "streams": pool.streams,
            "general": pool.queue in taken,
            "routes": tuple(queue.removeprefix(prefix) for queue in taken if queue.startswith(prefix)),
            "resident": self._rack.models(pool.name),
        }

    def _note(self, want: Wanted) -> str:
        """What a person should know; the first that is to be told."""
        if self._draining:
            return self._draining
        if want.pool is not None and (refusal := self.mounting.refused(want.pool, want.model, want.version)):
            return f"{shown(want.model)} cannot be loaded: {refusal.reason}"
        if self._crowded:
            return f"no room in memory to keep {', '.join(sorted(self._crowded))} beside what serves"
        return want.note

    def _tell(self, model: str, state: Literal["READY", "LOADING", "FAILED"], message: str) -> None:
        log.info("%s", message)
        self._means.announce(ModelNotice(name=model, state=state, node=self._seat.node, note=message, at=time.time()))
