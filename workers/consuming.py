"""Which queues a running Celery worker takes from, and how many messages at once; changed while it serves.

Celery's consumer belongs to the worker's event loop, so everything is done there. A change that meets a broken
connection is made again when the connection is back: what is wanted is kept, never an order.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from typing import Any

log = logging.getLogger(__name__)

WAIT_S = 2.0
"""The loop looks at what it is asked a few times a second."""


class Consuming:
    """Of one Celery worker."""

    def __init__(self, worker: Any, queues: Sequence[str]) -> None:
        """`queues` are those it was made with."""
        self._worker = worker
        self._lock = threading.Lock()
        self._wanted = tuple(queues)
        self._streams: int = worker.pool.num_processes
        self._tasks = 0
        self.open = tuple(queues)
        """Queues it takes from, as far as is known."""

    def apply(self, queues: Sequence[str], streams: int) -> bool:
        """Take from these queues and no others, so many messages at once. False where that is not known to be done."""
        with self._lock:
            self._wanted, self._streams = tuple(queues), streams
        consumer, done = self._worker.consumer, threading.Event()
        if consumer is None or consumer.hub is None:
            return False
        consumer.hub.call_soon(self._mend, consumer, done)
        self._worker.pool.wake()
        return done.wait(WAIT_S) and self.open == tuple(queues)

    # in the event loop

    def _mend(self, consumer: Any, done: threading.Event) -> None:
        """Raises nothing: Celery runs this while it puts a broken connection away, too."""
        try:
            self._change(consumer)
        except Exception as error:  # noqa: BLE001 - redis' and kombu's errors of a connection that is gone
            log.warning("the queues of this worker are changed when the broker is back (%s)", error)
        else:
            done.set()

    def _change(self, consumer: Any) -> None:
        with self._lock:
            wanted, streams = self._wanted, self._streams
        self._select(consumer.app.amqp.queues, wanted)
        if consumer.task_consumer is None:
            raise ConnectionError("there is no connection; the next one begins with what was selected")
        if len(consumer.app.tasks) != self._tasks:
            consumer.update_strategies()
            self._tasks = len(consumer.app.tasks)
        self._resize(consumer, streams)
        for name in self.open:
            if name not in wanted:
                consumer.task_consumer.cancel_by_queue(name)
        for name in wanted:
            if not consumer.task_consumer.consuming_from(name):
                consumer.task_consumer.add_queue(consumer.app.amqp.queues[name])
        consumer.task_consumer.consume()
        self.open = wanted

    @staticmethod
    def _select(queues: Any, wanted: Sequence[str]) -> None:
        """What the consumer of the next connection begins with."""
        for name in list(queues.consume_from):
            if name not in wanted:
                queues.deselect(name)
        for name in wanted:
            if name not in queues.consume_from:
                queues.select_add(name, exchange=name, exchange_type="direct")

    @staticmethod
    def _resize(consumer: Any, streams: int) -> None:
        if consumer.pool.num_processes == streams:
            return
        consumer.pool.resize(streams)
        consumer.initial_prefetch_count = streams
        consumer.qos.value = streams
        consumer.qos.set(streams)
