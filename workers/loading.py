"""Loading an engine in a thread: while a worker makes the rest of itself, or beside an engine that serves."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from reef.ports import Engine, Progress
from workers.memory import own_bytes

log = logging.getLogger(__name__)


class Loading:
    """An engine on its way. Begins at once."""

    def __init__(
        self,
        choose: Callable[[], Engine],
        *,
        loaded: Callable[[], None] = lambda: None,
        done: Callable[[], None] = lambda: None,
    ) -> None:
        """`choose` makes the engine; its imports happen in this thread, too. `loaded` is called there when it has the
        device and may raise EngineError, `done` at the end in any case.
        """
        self._choose, self._loaded, self._done = choose, loaded, done
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._latest: tuple[float, str] | None = None
        self._listener: Progress | None = None
        self.ended = False
        """Whether `wait` gives or raises something at once."""
        self.memory_bytes = 0
        """What loading it took; 0 before it is loaded."""
        self._thread = threading.Thread(target=self._run, name="loading", daemon=True)
        self._thread.start()

    def tell(self, progress: Progress) -> None:
        """From now on call this with the progress, first with what was known before."""
        with self._lock:
            self._listener = progress
            if self._latest is not None:
                progress(*self._latest)

    def wait(self) -> Engine:
        """The loaded engine. Raises what loading raised."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        if self._engine is None:
            raise RuntimeError("the engine's loading ended without an engine")
        return self._engine

    def _progress(self, share: float, note: str) -> None:
        with self._lock:
            self._latest = (share, note)
            if self._listener is not None:
                self._listener(share, note)

    def _run(self) -> None:
        before, engine = own_bytes(), None
        try:
            engine = self._choose()
            engine.load(self._progress)
            self._loaded()
            self.memory_bytes = max(0, own_bytes() - before)
            self._engine = engine
        except BaseException as error:  # noqa: BLE001 - it is raised again where the engine is waited for
            self._error = error
            if engine is not None:
                engine.close()
        self.ended = True
        self._done()
