"""Celery's thread pool, which tells the worker's event loop when a thread is free again.

Celery's own does not: while every stream is busy the loop waits for nothing, and a stream that ends stays idle until
some timer fires, up to two seconds later (celery 5.6.2). Nothing else about the pool is different.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

from celery.concurrency import thread


class TaskPool(thread.TaskPool):
    """Given to celery by name: `pool="workers.task_pool:TaskPool"`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._wakeup = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)

    def register_with_event_loop(self, loop: Any) -> None:
        """Called again whenever the connection to the broker was made anew."""
        loop.add_reader(self._wakeup, self._drain)

    def on_apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run a task. By the time its future is done, its message is acknowledged and another one may be taken."""
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(lambda _done: self.wake())
        return result

    def resize(self, streams: int) -> None:
        """From now on so many tasks run at once, at most as many as the pool was made for."""
        self.limit = streams

    def wake(self) -> None:
        """Make the event loop look at what it was given to do, whichever thread asks."""
        with contextlib.suppress(OSError):
            os.eventfd_write(self._wakeup, 1)

    def _drain(self) -> None:
        with contextlib.suppress(OSError):
            os.eventfd_read(self._wakeup)
