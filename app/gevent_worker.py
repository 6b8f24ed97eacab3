"""gunicorn's gevent worker, made to stop as soon as there is nothing left to answer.

gunicorn's own looks once a second whether it was asked to stop, and counts a connection that is merely kept open as one
that is being answered: a browser on the page held up every stop for the whole grace period.
"""

from __future__ import annotations

import time
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn.workers.ggevent import GeventWorker

NOTIFY_EVERY_S = 1.0
"""The parent is told this often that the loop runs."""
KILL_WAIT_S = 1


class _NextRequest(gevent.Timeout):  # type: ignore[misc]
    """The wait for a connection's next request; whoever waits can be told that none will be answered."""

    def __init__(self, timeout_s: float, waiting: dict[Any, _NextRequest]) -> None:
        super().__init__(timeout_s, False)
        self._waiting = waiting

    def __enter__(self) -> _NextRequest:
        self._waiting[gevent.getcurrent()] = self
        super().__enter__()
        return self

    def __exit__(self, *exc_info: Any) -> bool | None:
        del self._waiting[gevent.getcurrent()]
        ended: bool | None = super().__exit__(*exc_info)
        return ended


class ReefWorker(GeventWorker):  # type: ignore[misc]
    """Tells every socket and stream to come again as soon as it is asked to stop, and waits for answers only."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waiting: dict[Any, _NextRequest] = {}
        self._asked_to_stop = Event()

    def timeout_ctx(self) -> _NextRequest:
        """gunicorn's: entered to wait for a request."""
        return _NextRequest(self.cfg.keepalive if self.alive else 0, self._waiting)

    def run(self) -> None:
        """Serve until asked to stop."""
        servers = []
        for sock in self.sockets:
            sock.setblocking(1)
            server = StreamServer(sock, handle=partial(self.handle, sock), spawn=Pool(self.worker_connections))
            server.start()
            servers.append(server)
        while self.alive:
            self.notify()
            self._asked_to_stop.wait(NOTIFY_EVERY_S)
        for server in servers:
            server.close()
        deadline = time.monotonic() + self.cfg.graceful_timeout
        while any(server.pool for server in servers) and (left_s := deadline - time.monotonic()) > 0:
            self.notify()
            gevent.wait([one for server in servers for one in server.pool], timeout=min(left_s, NOTIFY_EVERY_S))
        if cut_off := sum(len(server.pool) for server in servers):
            self.log.warning("%d requests are cut off: %d s were not enough", cut_off, self.cfg.graceful_timeout)
        for server in servers:
            server.stop(timeout=KILL_WAIT_S)

    def handle_exit(self, sig: int, frame: Any) -> None:
        """Stop in good order."""
        super().handle_exit(sig, frame)
        gevent.spawn(self._close)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Stop now."""
        gevent.spawn(self._close)
        super().handle_quit(sig, frame)

    def _close(self) -> None:
        from app.services import EXTENSION  # here: the parent process needs none of it

        self._asked_to_stop.set()
        for waiting, wait in list(self._waiting.items()):
            waiting.kill(wait, block=False)
        if self.wsgi is not None:
            self.wsgi.extensions[EXTENSION].close()
