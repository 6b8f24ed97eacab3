"""What a worker loads before it knows anything but its own disk: the model of the place it had last, else its pool's.

A model that cannot be loaded, or that killed this worker before, is replaced by the pool's own, and the report says so.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from reef.ports import Engine, EngineError, Progress
from workers.loading import Loading
from workers.place_file import PlaceFile
from workers.seat import Seat
from workers.wanted import Wanted, wanted

if TYPE_CHECKING:
    # it brings the database library, which an engine that is being loaded must not wait for
    from workers.mounting import Mounting

log = logging.getLogger(__name__)


class Boot:
    """Loading begins at once, in a thread."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        self.file = PlaceFile(seat.settings.data_dir, seat.node)
        self.want: Wanted = wanted(self.file.known.place, seat.own, seat.topology)
        self._refused = ""
        """Why the place's model is not served."""
        self._progress: Progress = lambda share, note: None
        self._model = self.want.model
        if self.want.pool is not None and self.file.known.is_deadly(self._model):
            self._refused = "this worker died each time while it was loaded"
            self._model = self.want.pool.model
        self._loading = self._load(self._model)

    def _load(self, model: str) -> Loading | None:
        pool = self.want.pool
        if pool is None:
            return None
        if model != pool.model:
            self.file.begin(model)
        loading = Loading(lambda: self.seat.choose(pool, model), loaded=self.seat.keeper.serving)
        loading.tell(self._progress)
        return loading

    def tell(self, progress: Progress) -> None:
        """From now on call this with the progress of loading, first with what was known before."""
        self._progress = progress
        if self._loading is not None:
            self._loading.tell(progress)

    def queues(self) -> tuple[str, ...]:
        """What to take from at first. Routes to models are opened when it is known which are in memory."""
        return self.want.queues(self.seat.node, ())

    def leases_s(self) -> dict[str, float]:
        """Of the pools it may come to work for."""
        return {pool.name: pool.limits.lease_s for pool in self.seat.pools.values()}

    def wait(self) -> tuple[str, Engine, int] | None:
        """The model that was loaded, its engine and the memory it took; None where there is nothing to serve now.

        Raises EngineError for a device of a pool that cannot load the pool's own model.
        """
        while self._loading is not None:
            try:
                engine = self._loading.wait()
            except EngineError as error:
                if not self._fall_back(error):
                    raise
            else:
                if not self._refused:
                    self.file.end()
                return self._model, engine, self._loading.memory_bytes
        return None

    def tell_refusal(self, mounting: Mounting) -> None:
        """The place's model is to be left alone for a while, where it could not be loaded."""
        if self._refused and self.want.pool is not None:
            mounting.refuse(self.want.pool, self.want.model, self.want.version, self._refused)

    def _fall_back(self, error: EngineError) -> bool:
        """Load something else instead. False where there is nothing else."""
        pool = self.want.pool
        assert pool is not None  # noqa: S101 - it was being loaded for one
        self._refused = self._refused or str(error)
        self.seat.keeper.failed(error)
        log.error("%s cannot be loaded: %s", self._model, error)
        self.file.end()
        if self._model != pool.model:
            self._model = pool.model
            self._loading = self._load(self._model)
            return True
        self._loading = None
        return self.seat.own is None  # one that is given out goes on without; it may get another pool
