"""gunicorn's gevent worker, which tells every socket and stream to come again as soon as it is asked to stop."""

from __future__ import annotations

from typing import Any

import gevent
from gunicorn.workers.ggevent import GeventWorker


class ReefWorker(GeventWorker):  # type: ignore[misc]
    """Without this, open streams would hold up a restart for the whole grace period."""

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop in good order."""
        gevent.spawn(self._close)
        super().handle_exit(sig, frame)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop now."""
        gevent.spawn(self._close)
        super().handle_quit(sig, frame)

    def _close(self) -> None:
        from app.services import EXTENSION  # here: the parent process needs none of it

        if self.wsgi is not None:
            self.wsgi.extensions[EXTENSION].close()
