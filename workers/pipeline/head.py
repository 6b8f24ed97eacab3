"""The first stage of a pipeline: an engine as others are, whose device does the first segment (reef.ports).

Inputs go in one after the other without waiting for results, as many at once as the window allows; results come back in
the same order from the last stage. Where any stage is lost, every input on its way fails, the ledger tries their jobs
again, and the next call looks for the stages anew.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
import uuid
from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reef.inference.models import labels_of
from reef.ports import Cancelled, EngineError, EngineRefused, ModelFacts, Progress
from workers.pipeline.meeting import Meeting
from workers.pipeline.stage import Segment
from workers.pipeline.wire import Broken, Frame, Head, Hello, Link, Ready, Refused, Tensors, passing

if TYPE_CHECKING:
    import socket

    from numpy.typing import NDArray

log = logging.getLogger(__name__)

IN_FLIGHT_PER_STAGE = 2
MEET_WAIT_S = 15.0
"""How long the other stages may take to start, or to come back."""
LOOK_S = 0.1
PATIENCE_SHARE = 1.5
"""A stage that hangs is ended by its watchdog; so many times that long without a result, something else is wrong."""


class PipelineEngine:
    """reef.ports.InferenceEngine over segments on several devices."""

    name = "tflite"

    def __init__(
        self, segment: Segment, data_dir: Path, *, hang_s: float, in_flight: int = 0, wait_s: float = MEET_WAIT_S
    ) -> None:
        """`in_flight` 0: two inputs for each stage."""
        self.model = segment.place.model
        self._segment, self._data_dir, self._folder = segment, data_dir, data_dir / "models"
        self._in_flight = in_flight or IN_FLIGHT_PER_STAGE * len(segment.place.peers)
        self._patience_s, self._wait_s = hang_s * PATIENCE_SHARE, wait_s
        self._meeting_stages = threading.Lock()
        self._session: _Session | None = None
        self._waits = 0

    def load(self, progress: Progress) -> None:
        """Load the first segment. The other stages are looked for when there is work. Raises EngineError."""
        self._segment.load(progress)
        self._meeting = Meeting(self._data_dir)
        self._door = self._meeting.listen(self._segment.place.node)

    def describe(self, model: str) -> ModelFacts:
        """See reef.ports.InferenceEngine."""
        if model != self.model:
            raise EngineRefused(f"This pipeline runs {self.model} only, not {model[:140]!r}.")
        return self._joined().facts

    def infer(
        self, model: str, inputs: Sequence[Sequence[NDArray[Any]]], cancel: threading.Event
    ) -> list[list[NDArray[Any]]]:
        """See reef.ports.InferenceEngine."""
        facts = self.describe(model)
        session = self._joined()
        call = _Call(len(inputs))
        for position, tensors in enumerate(inputs):
            named = {spec.name: tensor for spec, tensor in zip(facts.inputs, tensors, strict=True)}
            session.feed(call, position, named, cancel)
        found = session.results(call, cancel)
        return [[tensors[spec.name] for spec in facts.outputs] for tensors in found]

    def resident(self) -> list[str]:
        """See reef.ports.Holder."""
        return self._segment.resident()

    def drop(self, model: str) -> bool:
        """A segment belongs to the place of its device."""
        return False

    def steps(self) -> int:
        """Calls of its own device and results of the last; looking for the others counts, it ends in bounded time."""
        session = self._session
        return self._segment.steps + self._waits + (session.results_so_far if session else 0)

    def close(self) -> None:
        """End what is on its way and free the device."""
        if self._session is not None:
            self._session.fail("this worker stops")
        self._meeting.close()
        self._door.close()
        self._segment.close()

    def _joined(self) -> _Session:
        """The session that lives, or a new one. Raises EngineError saying which stage is missing."""
        with self._meeting_stages:
            if self._session is None or self._session.error:
                # results of the old one stay counted: the counter of steps may not go back
                self._waits += self._session.results_so_far if self._session else 0
                self._session = None
                self._session = self._join()
            return self._session

    def _join(self) -> _Session:
        place = self._segment.place
        hello = Hello(session=uuid.uuid4().hex, model=place.model, peers=place.peers, index=1, wait_s=self._wait_s)
        began = time.monotonic()
        link: Link | None = None
        try:
            link = self._meeting.reach(place.peers[1], self._wait_s, self._count_wait)
            link.send(hello)
            ready = self._answer(link, began)
            loaded = self._segment.loaded
            through = passing(loaded.inputs, loaded.outputs, ready.wants)
            results = self._result_link(hello.session)
        except Broken as error:
            if link is not None:
                link.close()
            raise EngineError(f"The pipeline of {place.model} is not complete: {error}.") from error
        labels = labels_of(self._folder / f"{place.model}.tflite")
        facts = ModelFacts(name=place.model, inputs=through.wants, outputs=ready.outputs, labels=labels)
        log.info("%s runs on %s", place.model, ", ".join(place.peers))
        return _Session(self._segment, link, results, facts, through.names, self._in_flight, self._patience_s)

    def _answer(self, link: Link, began: float) -> Ready:
        """Wait for the other stages, counting: each of them waits no longer than told. Raises Broken."""
        counting = _Counting(self._count_wait)
        try:
            said, _ = link.receive(max(0.1, 2 * self._wait_s - (time.monotonic() - began)))
        finally:
            counting.stop()
        if isinstance(said, Refused):
            raise Broken(said.message)
        if not isinstance(said, Ready):
            raise Broken(f"the second stage answered hello with {type(said).__name__}")
        return said

    def _result_link(self, session: str) -> Link:
        """The last stage's connection to us, which it made before it said that it is ready. Raises Broken."""
        self._door.settimeout(LOOK_S)
        while True:
            try:
                connection: socket.socket = self._door.accept()[0]
            except OSError as error:
                raise Broken("the last stage did not connect") from error
            link = Link(connection)
            with contextlib.suppress(Broken):
                said, _ = link.receive(LOOK_S)
                if isinstance(said, Hello) and said.session == session:
                    return link
            link.close()  # left over from a session that came to nothing

    def _count_wait(self) -> None:
        self._waits += 1


class _Counting:
    """Counts on while this process waits for others to start."""

    def __init__(self, count: Callable[[], None]) -> None:
        self._count, self._over = count, threading.Event()
        threading.Thread(target=self._loop, name="pipeline wait", daemon=True).start()

    def stop(self) -> None:
        """The wait is over."""
        self._over.set()

    def _loop(self) -> None:
        while not self._over.wait(LOOK_S):
            self._count()


class _Call:
    """The inputs of one caller: their results, as they come."""

    def __init__(self, count: int) -> None:
        self.results: list[Tensors | None] = [None] * count
        self.missing = count
        self.error = ""


class _Session:
    """All stages joined, until one is lost."""

    def __init__(
        self,
        segment: Segment,
        onward: Link,
        results: Link,
        facts: ModelFacts,
        names: tuple[str, ...],
        in_flight: int,
        patience_s: float,
    ) -> None:
        self.facts, self.error, self.results_so_far = facts, "", 0
        self._segment, self._onward, self._results, self._names = segment, onward, results, names
        self._in_flight, self._patience_s = in_flight, patience_s
        self._changed = threading.Condition()
        self._feeding = threading.Lock()
        self._numbers = 0
        self._on_their_way: OrderedDict[int, tuple[_Call, int]] = OrderedDict()
        threading.Thread(target=self._collect, name="pipeline results", daemon=True).start()

    def feed(self, call: _Call, position: int, given: Tensors, cancel: threading.Event) -> None:
        """Put an input on its way, once the window has room. Raises EngineError and Cancelled."""
        with self._feeding:  # in the order of their numbers
            self._wait(lambda: len(self._on_their_way) < self._in_flight, call, cancel)
            made = self._segment.run(given)
            with self._changed:
                self._numbers += 1
                number = self._numbers
                self._on_their_way[number] = (call, position)
            try:
                self._onward.send_frame(number, {name: made.get(name, given.get(name)) for name in self._names})  # type: ignore[misc]
            except Broken as error:
                self.fail(f"stage {self._segment.place.peers[1]} is gone ({error})", patient=True)
        self._raise_lost()

    def results(self, call: _Call, cancel: threading.Event) -> list[Tensors]:
        """The results of a call, in the order of its inputs. Raises EngineError and Cancelled."""
        self._wait(lambda: not call.missing, call, cancel)
        return [result for result in call.results if result is not None]

    def fail(self, reason: str, *, patient: bool = False) -> None:
        """End it: everything on its way is lost. `patient`: the results may say better why in a moment."""
        with self._changed:
            if patient:
                self._changed.wait_for(lambda: bool(self.error), LOOK_S)
            self.error = self.error or reason
            self._on_their_way.clear()
            self._changed.notify_all()
        self._onward.close()
        self._results.close()

    def _wait(self, done: Callable[[], bool], call: _Call, cancel: threading.Event) -> None:
        seen, since = self.results_so_far, time.monotonic()
        with self._changed:
            while not self._changed.wait_for(lambda: done() or bool(self.error or call.error), LOOK_S):
                if cancel.is_set():
                    raise Cancelled
                if self.results_so_far != seen:
                    seen, since = self.results_so_far, time.monotonic()
                if time.monotonic() - since > self._patience_s:
                    break
            if cancel.is_set():
                raise Cancelled
            if call.error:
                raise EngineError(call.error)
            if done() and not self.error:
                return
        if not self.error:
            self.fail(f"no stage gave a result for {self._patience_s:.0f} s")
        self._raise_lost()

    def _raise_lost(self) -> None:
        if self.error:
            raise EngineError(f"The pipeline of {self.facts.name} was interrupted: {self.error}.")

    def _collect(self) -> None:
        try:
            while True:
                self._settle(*self._results.receive())
        except Broken as error:
            last = self._segment.place.peers[-1]
            self.fail(str(error) if str(error).startswith("stage ") else f"stage {last} ended ({error})")

    def _settle(self, frame: Head, tensors: Tensors) -> None:
        if isinstance(frame, Refused):
            raise Broken(frame.message)
        with self._changed:
            if not isinstance(frame, Frame) or not self._on_their_way:
                raise Broken(f"the last stage sent a {type(frame).__name__} that nobody waits for")
            number, (call, position) = self._on_their_way.popitem(last=False)
            if number != frame.number:
                raise Broken(f"result {frame.number} came in place of {number}")
            self.results_so_far += 1
            if frame.error:
                call.error = call.error or frame.error
            elif call.results[position] is None:
                call.results[position] = tensors
                call.missing -= 1
            self._changed.notify_all()
