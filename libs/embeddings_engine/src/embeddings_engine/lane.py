"""Who uses the device next. Callers hand in work and wait; the lane's threads run one batch at a time.

Interactive work goes before bulk work at every batch, so it waits for at most one device call that is already running,
and for none where the backend can make an urgent call beside the others: a thread is kept free for that, and no bulk
call begins while it computes. What waits together is run together, up to the backend's batch. Knows no model and no
text.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.errors import Cancelled, Closed
from embeddings_engine.tokens import Item

Vectors = NDArray[np.float32]
WAITING_MAX = 1024
"""Calls that may wait at once; more is a caller without back-pressure."""
CLOSE_TIMEOUT_S = 30.0
Guard = Callable[[], AbstractContextManager[object]]
"""Entered around every device call: where a watchdog is armed."""


class Work:
    """The items of one call. Longest first, so that a batch holds texts of like length and memory peaks at once."""

    def __init__(
        self,
        items: Sequence[Item],
        dimensions: int,
        *,
        query: bool = False,
        interactive: bool = False,
        batch_max: int | None = None,
        cancel: threading.Event | None = None,
    ) -> None:
        self.items, self.query, self.interactive = items, query, interactive
        self.vectors: Vectors = np.empty((len(items), dimensions), np.float32)
        self._batch_max = batch_max
        self._cancel = cancel
        self._order = deque(sorted(range(len(items)), key=lambda index: -items[index].tokens))
        self._left = len(items)
        self._error: BaseException | None = None
        self._changed = threading.Condition()

    @property
    def pending(self) -> bool:
        """Whether some of it has not been given to the device yet."""
        return bool(self._order) and self._error is None

    @property
    def cancelled(self) -> bool:
        return self._cancel is not None and self._cancel.is_set()

    def take(self, count_max: int, tokens_max: int) -> list[int]:
        """Indices for the next device call; at least one if anything is pending."""
        count_max = min(count_max, self._batch_max or count_max)
        taken: list[int] = []
        widest = self.items[self._order[0]].tokens if self._order else 0
        while self._order and len(taken) < count_max and (not taken or (len(taken) + 1) * widest <= tokens_max):
            taken.append(self._order.popleft())
        return taken

    def deliver(self, indices: Sequence[int], vectors: Vectors) -> None:
        with self._changed:
            self.vectors[list(indices)] = vectors
            self._left -= len(indices)
            self._changed.notify_all()

    def fail(self, error: BaseException) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def wait(self, progress: Callable[[int], None] | None = None) -> Vectors:
        """Block until all vectors are there; `progress` is called in this thread with how many are."""
        told = len(self.items) + 1
        while told:
            told = self._await_fewer(told)
            if progress is not None:
                progress(len(self.items) - told)
        return self.vectors

    def _await_fewer(self, than: int) -> int:
        with self._changed:
            self._changed.wait_for(lambda: self._error is not None or self._left < than)
            if self._error is not None:
                raise self._error
            return self._left


class Lane:
    """The threads that own a backend's `run`, and what waits for them."""

    def __init__(
        self,
        run: Callable[[Sequence[Item], bool], Vectors],
        *,
        batch_max: int,
        batch_tokens_max: int,
        threads: int = 1,
        urgent_threads: int = 0,
        guard: Guard = contextlib.nullcontext,
        before_bulk: Callable[[], None] | None = None,
    ) -> None:
        """`urgent_threads` do interactive work only; `before_bulk` is called in a thread before each bulk call."""
        self._run, self._guard, self._before_bulk = run, guard, before_bulk
        self._batch_max, self._batch_tokens_max = batch_max, batch_tokens_max
        self._interactive: deque[Work] = deque()
        self._bulk: deque[Work] = deque()
        self._ready = threading.Condition()
        self._closed = False
        self._steps = 0
        self._urgent_running, self._urgent_threads = 0, urgent_threads
        self._nothing: deque[Work] = deque()
        self._threads = [
            threading.Thread(target=self._serve_all, name=f"embeddings-lane-{index}", daemon=True)
            for index in range(threads)
        ]
        self._threads += [
            threading.Thread(target=self._serve_urgent, name=f"embeddings-urgent-{index}", daemon=True)
            for index in range(urgent_threads)
        ]
        for thread in self._threads:
            thread.start()

    @property
    def steps(self) -> int:
        """Device calls finished so far."""
        return self._steps

    def submit(self, work: Work) -> None:
        """Queue work. Raises Closed when the lane is, or when too many calls wait already."""
        with self._ready:
            if self._closed:
                raise Closed("the engine is closed.")
            queue = self._interactive if work.interactive else self._bulk
            if len(queue) >= WAITING_MAX:
                raise Closed(
                    f"{WAITING_MAX} calls wait for this engine already; send larger batches from fewer threads."
                )
            queue.append(work)
            self._ready.notify_all()

    def waiting(self) -> tuple[int, int]:
        """Interactive and bulk calls that are not finished yet."""
        with self._ready:
            return len(self._interactive), len(self._bulk)

    def close(self) -> None:
        """Let running device calls end; everything that waits ends as Closed."""
        with self._ready:
            self._closed = True
            for work in (*self._interactive, *self._bulk):
                work.fail(Closed("the engine was closed."))
            self._interactive.clear()
            self._bulk.clear()
            self._ready.notify_all()
        for thread in self._threads:
            thread.join(CLOSE_TIMEOUT_S)

    def _serve_all(self) -> None:
        while parts := self._next(urgent=False):
            if self._before_bulk is not None and not parts[0][0].interactive:
                self._before_bulk()
            self._execute(parts)

    def _serve_urgent(self) -> None:
        while parts := self._next(urgent=True):
            try:
                self._execute(parts)
            finally:
                with self._ready:
                    self._urgent_running -= 1
                    self._ready.notify_all()

    def _next(self, *, urgent: bool) -> list[tuple[Work, list[int]]]:
        """What to run now; empty when the lane is closed."""
        with self._ready:
            while True:
                self._drop_ended()
                queue = self._queue(urgent)
                if queue:
                    self._urgent_running += urgent
                    return self._gather(queue)
                if self._closed:
                    return []
                self._ready.wait()

    def _queue(self, urgent: bool) -> deque[Work]:
        """What this kind of thread may take from: people first, each by a thread that was kept free if there is one."""
        if urgent or (self._interactive and self._urgent_running >= self._urgent_threads):
            return self._interactive
        return self._nothing if self._urgent_running else self._bulk

    def _drop_ended(self) -> None:
        for queue in (self._interactive, self._bulk):
            for work in [work for work in queue if work.cancelled or not work.pending]:
                queue.remove(work)
                if work.cancelled:
                    work.fail(Cancelled("the caller asked for the work to end."))

    def _gather(self, queue: deque[Work]) -> list[tuple[Work, list[int]]]:
        first = queue[0]
        parts = [(first, first.take(self._batch_max, self._batch_tokens_max))]
        room = self._batch_max - len(parts[0][1])
        widest = max((first.items[index].tokens for index in parts[0][1]), default=0)
        for work in list(queue)[1:]:
            tokens_left = self._batch_tokens_max - widest * (self._batch_max - room)
            if room <= 0 or tokens_left <= 0 or first.pending:
                break
            if work.query == first.query and work.pending:
                parts.append((work, work.take(room, tokens_left)))
                room -= len(parts[-1][1])
        queue.rotate(-1)  # bulk calls share the device evenly instead of one after the other
        return parts

    def _execute(self, parts: list[tuple[Work, list[int]]]) -> None:
        try:
            self._call(parts)
        except BaseException as error:  # noqa: BLE001  (it belongs to the callers, whatever it is)
            if len(parts) == 1:
                parts[0][0].fail(error)
                return
            for part in parts:  # one caller's bad text must not fail the others
                self._execute([part])

    def _call(self, parts: list[tuple[Work, list[int]]]) -> None:
        items = [work.items[index] for work, indices in parts for index in indices]
        with self._guard():
            vectors = self._run(items, parts[0][0].query)
        with self._ready:
            self._steps += 1
        at = 0
        for work, indices in parts:
            work.deliver(indices, vectors[at : at + len(indices)])
            at += len(indices)
