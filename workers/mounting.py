"""Bringing models into the rack: one at a time, in a thread, beside what serves wherever the memory allows.

A model that cannot be loaded leaves what serves untouched; it is tried again after a while, or when somebody decides
anew. Which model is wanted is decided in following.py.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass

from reef.placement.model import stage_of
from reef.ports import EngineError, Progress
from reef.topology import Pool
from workers import memory
from workers.loading import Loading
from workers.place_file import PlaceFile
from workers.rack import Mounted, Rack
from workers.seat import Seat

log = logging.getLogger(__name__)

DEFAULT = "the default model"
"""What a pool's model is called where queues.yaml names none."""


def shown(model: str) -> str:
    """A model for a person, or a segment of one."""
    stage = stage_of(model)
    return f"segment {stage.stage + 1} of {len(stage.peers)} of {stage.model}" if stage else model or DEFAULT


RETRY_AFTER_S = (30.0, 120.0, 600.0)
"""A model that could not be loaded is tried again after the first, the second of these, and so on."""


@dataclass
class Refusal:
    """A model that could not be loaded."""

    reason: str
    version: int
    """The decision it was wanted by; a newer one tries again at once."""
    times: int
    at: float
    """Unix seconds."""

    def holds(self, version: int) -> bool:
        """Whether it is left alone for now."""
        wait_s = RETRY_AFTER_S[min(self.times, len(RETRY_AFTER_S)) - 1]
        return version == self.version and time.time() < self.at + wait_s


class Mounting:
    """Of one worker. Used by one thread."""

    def __init__(
        self,
        seat: Seat,
        rack: Rack,
        file: PlaceFile,
        *,
        progress: Progress,
        done: Callable[[], None],
        available: Callable[[], int] = memory.available_bytes,
    ) -> None:
        """`progress` is told how far a load is, `done` is called when one has ended; both in the loading thread."""
        self._seat, self._rack, self._file = seat, rack, file
        self._progress, self._done, self._available = progress, done, available
        self._refused: dict[tuple[str, str], Refusal] = {}
        self._loading: tuple[Pool, str, int, Loading] | None = None
        self.latest: Refusal | None = None
        """The last model that could not be loaded."""

    @property
    def is_loading(self) -> bool:
        """Whether a model is on its way."""
        return self._loading is not None

    @property
    def loading(self) -> str:
        """Its name, for a person; empty when none is on its way."""
        return shown(self._loading[1]) if self._loading else ""

    def refused(self, pool: Pool, model: str, version: int) -> Refusal | None:
        """Why this model is left alone for now, if it is."""
        known = self._refused.get((pool.name, model))
        return known if known is not None and known.holds(version) else None

    def refuse(self, pool: Pool, model: str, version: int, reason: str) -> Refusal:
        """Leave this model alone for a while."""
        known = self._refused.get((pool.name, model))
        times = known.times + 1 if known is not None and known.version == version else 1
        self.latest = self._refused[pool.name, model] = Refusal(reason, version, times, time.time())
        log.error("%s cannot be loaded for pool %s: %s", model, pool.name, reason)
        return self.latest

    def why_no_room(self, pool: Pool, model: str) -> str:
        """Empty where the model fits beside all that is in memory. Raises EngineError where there is no such model."""
        weights = self._seat.weight_bytes(pool, model)
        needed = memory.needed_bytes(weights, self._measured(pool))
        return memory.why_no_room(needed, self._available())

    def begin(self, pool: Pool, model: str, version: int) -> None:
        """Load this model. One at a time: nothing may be on its way."""
        assert self._loading is None  # noqa: S101 - the caller looks first
        self._file.begin(model)
        loading = Loading(lambda: self._seat.choose(pool, model), loaded=self._seat.keeper.serving, done=self._done)
        self._loading = (pool, model, version, loading)
        loading.tell(self._progress)

    def collect(self) -> tuple[Pool, str, Refusal | None] | None:
        """What has ended, if something has: its engine is in the rack now, or it was refused."""
        if self._loading is None or not self._loading[3].ended:
            return None
        pool, model, version, loading = self._loading
        self._loading = None
        self._file.end()
        try:
            engine = loading.wait()
        except EngineError as error:
            return pool, model, self.refuse(pool, model, version, str(error))
        except Exception as error:
            log.exception("loading %s failed", model)
            reason = f"{type(error).__name__}: an internal error; see the log of this worker"
            return pool, model, self.refuse(pool, model, version, reason)
        self._refused.pop((pool.name, model), None)
        self._rack.mount(pool.name, model, engine, loading.memory_bytes)
        return pool, model, None

    def _measured(self, pool: Pool) -> memory.Measured | None:
        """What the engine that serves was measured to take, where that is known."""
        serving = self._rack.serving(pool.name)
        if serving is None or not serving.memory_bytes:
            return None
        return memory.Measured(self._weights_of(pool, serving), serving.memory_bytes)

    def _weights_of(self, pool: Pool, mounted: Mounted) -> int:
        try:
            return self._seat.weight_bytes(pool, mounted.name)
        except EngineError:
            return 0  # its file was deleted meanwhile
