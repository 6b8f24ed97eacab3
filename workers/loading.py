"""Loading the engine in a thread of its own, so that a worker imports and makes the rest of itself meanwhile."""

from __future__ import annotations

import threading
from collections.abc import Callable

from reef.ports import Engine, Progress


class Loading:
    """An engine on its way. Begins at once."""

    def __init__(self, choose: Callable[[], Engine]) -> None:
        """`choose` makes the engine; its imports happen in this thread, too."""
        self._choose = choose
        self._engine: Engine | None = None
        self._error: BaseException | None = None
        self._lock = threading.Lock()
        self._latest: tuple[float, str] | None = None
        self._listener: Progress | None = None
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
        try:
            engine = self._choose()
            engine.load(self._progress)
            self._engine = engine
        except BaseException as error:  # noqa: BLE001 - it is raised again where the engine is waited for
            self._error = error
