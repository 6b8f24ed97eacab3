"""Calls the handlers: the messages of one connection in order, one at a time, and without a task where nothing waits.

A handler's coroutine is stepped once where its message arrives. Most end there. One that waits is handed, in the
middle, to a task that stood ready; the messages after it wait in the connection's inbox until that task has handled
them. Knows no sockets; link.py and writer.py do.
"""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import types
from asyncio.tasks import _enter_task, _leave_task
from collections.abc import Awaitable, Callable, Coroutine, Generator, Iterable, Iterator
from itertools import repeat
from typing import TYPE_CHECKING, Any

from websocket_fabric.messages import Data, Message

if TYPE_CHECKING:
    from websocket_fabric.connection import Connection

Answer = Data | Message | None
Handler = Callable[[Message], Awaitable[Answer] | Answer]
DataHandler = Callable[["Connection", Data], Answer]
Hook = Callable[["Connection"], Awaitable[None] | None]
Then = Callable[[Any, BaseException | None], None]

FAILURES = (Exception, asyncio.CancelledError)
"""How a handler or a hook may fail. One that awaits what somebody cancelled ends with CancelledError, and has failed
like any other; only the server's own stop cancels without that."""
TURN_MESSAGES = 512
"""Of one connection that are handled before the others have their turn: a flood of tiny ones is thousands a read."""
FLUSH_BYTES = 64 * 1024
"""Answers of one read are written together, but never more than this is gathered first."""


def is_async(function: Callable[..., object]) -> bool:
    """Whether calling it gives a coroutine."""
    return inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(type(function).__call__)


class Delivery:
    """A server's handler, and the tasks that finish what waits."""

    def __init__(self) -> None:
        self._answers: Callable[[Connection, Iterator[Data]], Iterable[Answer]] | None = None
        self._handler: Any = None
        self._spare: _Worker | None = None
        self._context = contextvars.copy_context()
        self.is_stopped = False
        """What is cancelled from now on was cancelled by the server."""
        self.working: set[asyncio.Task[None]] = set()
        """Tasks of handlers that wait."""

    def set_handler(self, handler: Handler) -> None:
        """Call this with each message."""
        self._handler = handler
        self._answers = None if is_async(handler) else self._plain

    def set_data_handler(self, handler: DataHandler) -> None:
        """Call this with each message's connection and data. Raises TypeError for one that waits."""
        if is_async(handler):
            raise TypeError("A handler of data is a plain function; use on_message for one that waits.")
        self._handler = handler
        self._answers = self._data

    def _plain(self, connection: Connection, batch: Iterator[Data]) -> Iterable[Answer]:
        return map(self._handler, map(Message, batch, repeat(connection)))

    def _data(self, connection: Connection, batch: Iterator[Data]) -> Iterable[Answer]:
        return map(self._handler, repeat(connection), batch)

    def start(self) -> None:
        """Take the caller's context: handlers see what was set in it."""
        self.is_stopped = False
        self._context = contextvars.copy_context()

    def stop(self) -> None:
        """Cancel what still waits."""
        self.is_stopped = True
        if self._spare is not None:
            self._spare.task.cancel()
            self._spare = None
        for task in self.working:
            task.cancel()

    # --- messages

    def deliver(self, connection: Connection, messages: Iterable[Data]) -> None:
        """Have them handled, and the answers written."""
        if self._handler is None:
            return
        batch = connection.begin(messages)
        try:
            if self._answers is not None:
                _answer(connection, self._answers(connection, batch))
            else:
                coroutines = map(self._handler, map(Message, batch, repeat(connection)))
                context = self._context.copy()
                self._as_task(context, _answer, connection, self._step(coroutines, connection, context))
        except FAILURES as error:  # one connection's failure is told to that connection, and logged
            connection.failed(error)
        finally:
            connection.end()

    def _as_task(self, context: contextvars.Context, function: Callable[..., None], *arguments: Any) -> None:
        """Call it as if within the task that will go on with what waits: timeouts look for their task."""
        loop = asyncio.get_running_loop()
        if self._spare is None or self._spare.task.done():
            self._spare = _Worker(self, loop, self._context)
        task = self._spare.task
        _enter_task(loop, task)
        try:
            context.run(function, *arguments)
        finally:
            _leave_task(loop, task)

    def _step(
        self, coroutines: Iterable[Coroutine[Any, Any, Answer]], connection: Connection, context: contextvars.Context
    ) -> Iterator[Answer]:
        for coroutine in coroutines:
            try:
                waits_for = coroutine.send(None)
            except StopIteration as done:
                yield done.value
            else:
                self._hand_over(connection, _Started(coroutine, waits_for, context), connection.answered)
                return

    # --- hooks

    def run(self, connection: Connection, hook: Hook, then: Then) -> None:
        """Call a hook of a connection's, and `then` with its result or what it raised; messages wait until then."""
        if not is_async(hook):
            try:
                result = hook(connection)
            except FAILURES as error:
                then(None, error)
            else:
                then(result, None)
            return
        context = self._context.copy()
        outcome: list[tuple[Any, BaseException | None]] = []
        self._as_task(context, self._step_hook, connection, hook, then, context, outcome)
        for result, raised in outcome:
            then(result, raised)

    def _step_hook(
        self,
        connection: Connection,
        hook: Any,
        then: Then,
        context: contextvars.Context,
        outcome: list[tuple[Any, BaseException | None]],
    ) -> None:
        coroutine = hook(connection)
        try:
            waits_for = coroutine.send(None)
        except StopIteration as done:
            outcome.append((done.value, None))
        except FAILURES as error:
            outcome.append((None, error))
        else:
            self._hand_over(connection, _Started(coroutine, waits_for, context), then)

    # --- what waits

    def _hand_over(self, connection: Connection, started: _Started, then: Then) -> None:
        worker, self._spare = self._spare, None
        assert worker is not None, "a coroutine is stepped as the spare worker's"  # noqa: S101
        connection.wait_for_worker()
        self.working.add(worker.task)
        worker.task.add_done_callback(self.working.discard)
        worker.task.add_done_callback(lambda _task: self._left(worker, connection, then))
        worker.take(connection, started, then)

    def _left(self, worker: _Worker, connection: Connection, then: Then) -> None:
        if not worker.has_begun and not self.is_stopped:
            # a task that is cancelled before its first step takes none
            then(None, asyncio.CancelledError("The handler cancelled its own task."))
        connection.worker_left()

    async def work_off(self, connection: Connection) -> None:
        """Handle what came in the meantime."""
        if self._answers is not None:
            # plain functions need no task; they are called when it is done
            return
        handled = 0
        while (data := connection.next_waiting()) is not None:
            connection.answered(await self._handler(Message(data, connection)), None)
            handled += 1
            if handled % TURN_MESSAGES == 0:
                await asyncio.sleep(0)


def _answer(connection: Connection, answers: Iterable[Answer]) -> None:
    """Gather the frames of the answers."""
    assert connection.protocol is not None and connection.pending is not None  # noqa: S101, PT018 - for mypy
    gather, encode, size = connection.pending.append, connection.protocol.message, 0
    for answer in answers:
        if answer is None:
            continue
        data = answer.data if answer.__class__ is Message else answer
        if connection.outbox is None:
            frame = encode(data)  # type: ignore[arg-type]
            gather(frame)
            size += len(frame)
            if size >= FLUSH_BYTES:
                connection.flush()
                size = 0
        else:
            connection.send(data)  # type: ignore[arg-type]


class _Started:
    """A coroutine that was stepped already, and what it waits for."""

    __slots__ = ("context", "coroutine", "waits_for")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], waits_for: Any, context: contextvars.Context) -> None:
        self.coroutine, self.waits_for, self.context = coroutine, waits_for, context

    @types.coroutine
    def finish(self, thrown: BaseException | None) -> Generator[Any, Any, Any]:
        """Go on with it, in the context it began in; `thrown` is thrown into it first."""
        value = None
        while True:
            if thrown is None:
                try:
                    value = yield self.waits_for
                except BaseException as error:  # noqa: BLE001 - whatever is thrown in is the coroutine's
                    thrown = error
            try:
                if thrown is None:
                    self.waits_for = self.context.run(self.coroutine.send, value)
                else:
                    now, thrown = thrown, None
                    self.waits_for = self.context.run(self.coroutine.throw, now)
            except StopIteration as done:
                return done.value


class _Worker:
    """A task that stands ready for a coroutine that turns out to wait."""

    def __init__(self, delivery: Delivery, loop: asyncio.AbstractEventLoop, context: contextvars.Context) -> None:
        self._delivery = delivery
        self._given: asyncio.Future[None] = loop.create_future()
        self._job: tuple[Connection, _Started, Then] | None = None
        self.has_begun = False
        self.task = loop.create_task(self._work(), context=context.copy())

    def take(self, connection: Connection, started: _Started, then: Then) -> None:
        """Go on with it."""
        self._job = connection, started, then
        if not self._given.done():
            self._given.set_result(None)

    async def _work(self) -> None:
        self.has_begun = True
        cancelled: BaseException | None = None
        try:
            await self._given
        except asyncio.CancelledError as error:
            # a timeout of the handler's may be over before this task came to its turn; the cancellation is meant for it
            cancelled = error
        if self._job is None:
            raise cancelled or asyncio.CancelledError
        connection, started, then = self._job
        try:
            result = await started.finish(cancelled)
        except FAILURES as error:
            self._raise_ours(error)
            then(None, error)
        else:
            then(result, None)
        try:
            await self._delivery.work_off(connection)
        except FAILURES as error:
            self._raise_ours(error)
            connection.failed(error)

    def _raise_ours(self, error: BaseException) -> None:
        """Where the server stops it has cancelled this task: nobody failed."""
        if self._delivery.is_stopped and isinstance(error, asyncio.CancelledError):
            raise error
