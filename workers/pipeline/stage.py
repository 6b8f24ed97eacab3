"""A later stage of a pipeline: one segment on one device, which serves the stage before it. Knows no job.

It keeps nothing between two sessions but its loaded segment. A session begins when the stage before says hello and ends
with either connection: then everybody's ends, and the first stage begins a new one when it has work. So any stage may
die and come back at any time.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
import time
from pathlib import Path

from reef.inference.models import segment_files
from reef.placement.model import Place
from reef.ports import EngineError, Progress
from reef.topology import Device
from workers.engines.tflite_runtime import LoadedModel, Runtime
from workers.pipeline.meeting import Meeting
from workers.pipeline.wire import Broken, Frame, Head, Hello, Link, Ready, Refused, Tensors, passing
from workers.watchdog import Watchdog

log = logging.getLogger(__name__)

WAITING_MAX = 2
"""Frames that wait at a stage while it computes: one to take up at once, one against unevenness."""
HELLO_WAIT_S = 5.0
FIRST_HANG_S = 120.0


class Segment:
    """One segment, loaded on its device, each call watched."""

    def __init__(
        self, place: Place, device: Device, *, models_dir: Path, library: str, hang_s: float, trace_file: Path
    ) -> None:
        """Nothing is opened yet. Raises EngineError where the stages are not all on one machine."""
        if place.node not in place.peers or place.peers.index(place.node) != place.stage:
            raise EngineError(f"{place.node} is not stage {place.stage} of {', '.join(place.peers)}.")
        if len({node.partition(".")[2] for node in place.peers}) > 1:
            raise EngineError(f"The stages of one pipeline must be on one machine, not {', '.join(place.peers)}.")
        self.place = place
        self._device, self._folder, self._library = device, models_dir, library
        self._watchdog, self._hang_s = Watchdog(hang_s, trace_file), hang_s
        self._runtime: Runtime | None = None
        self._loaded: LoadedModel | None = None
        self._turn = threading.Lock()
        self.steps = 0

    @property
    def loaded(self) -> LoadedModel:
        """The model. Raises EngineError before loading and after closing."""
        if self._loaded is None:
            raise EngineError("The segment is not loaded.")
        return self._loaded

    def load(self, progress: Progress) -> None:
        """Open the device and load. Raises EngineError with what to do next."""
        place = self.place
        progress(0.1, f"Opening {self._device.name} for segment {place.stage} of {place.model}.")
        self._watchdog.timeout_s = max(self._hang_s, FIRST_HANG_S)
        with self._watchdog.guard():
            self._runtime = Runtime(self._device, self._library)
            files = segment_files(self._folder, place.model, len(place.peers), compiled=self._runtime.compiled)
            self._loaded = self._runtime.load(files[place.stage])
        self._watchdog.timeout_s = self._hang_s
        progress(1.0, "")

    def resident(self) -> list[str]:
        """The name of its file, while it is loaded."""
        loaded = self._loaded
        return [loaded.path.stem] if loaded is not None else []

    def run(self, given: Tensors) -> Tensors:
        """What the segment makes of these tensors, which come by name. Raises EngineError."""
        with self._turn, self._watchdog.guard():
            loaded = self.loaded
            made = loaded.run([given[spec.name] for spec in loaded.inputs])
            self.steps += 1
        return {spec.name: tensor for spec, tensor in zip(loaded.outputs, made, strict=True)}

    def close(self) -> None:
        """Free the device."""
        with self._turn:
            self._loaded = None
            if self._runtime is not None:
                self._runtime.close()
                self._runtime = None
        self._watchdog.close()


class StageEngine:
    """reef.ports.Engine (and Holder) of a later stage: it works by itself from `load` on."""

    name = "tflite"

    def __init__(self, segment: Segment, data_dir: Path) -> None:
        self.model = segment.place.model
        self._segment = segment
        self._data_dir = data_dir
        self._closing = threading.Event()
        self._session: _Session | None = None

    def load(self, progress: Progress) -> None:
        """Load the segment and begin to listen. Raises EngineError."""
        self._segment.load(progress)
        self._meeting = Meeting(self._data_dir)
        self._door = self._meeting.listen(self._segment.place.node)
        threading.Thread(target=self._welcome, name="pipeline", daemon=True).start()

    def resident(self) -> list[str]:
        """See reef.ports.Holder."""
        return self._segment.resident()

    def drop(self, model: str) -> bool:
        """A segment belongs to the place of its device."""
        return False

    def steps(self) -> int:
        """Calls of the device so far."""
        return self._segment.steps

    def close(self) -> None:
        """End the session and free the device."""
        self._closing.set()
        if self._session is not None:
            self._session.close()
        self._meeting.close()
        with contextlib.suppress(OSError):
            self._door.shutdown(socket.SHUT_RDWR)  # closing alone would not wake who waits at it
        self._door.close()
        self._segment.close()

    def _welcome(self) -> None:
        while not self._closing.is_set():
            try:
                connection, _ = self._door.accept()
            except OSError:
                return
            # who comes now knows better: the session before it has lost its first stage
            if self._session is not None:
                self._session.close()
            self._session = _Session(self._segment, self._meeting, Link(connection))


class _Session:
    """From one hello to the end of either connection."""

    def __init__(self, segment: Segment, meeting: Meeting, before: Link) -> None:
        self._segment, self._meeting, self._before = segment, meeting, before
        self._after: Link | None = None
        self._names: tuple[str, ...] = ()
        self._over = threading.Event()
        self._waiting: queue.Queue[tuple[Head, Tensors]] = queue.Queue(WAITING_MAX)
        threading.Thread(target=self._live, name="pipeline session", daemon=True).start()

    def close(self) -> None:
        """End it. Safe from any thread, and twice."""
        self._over.set()
        self._before.close()
        if self._after is not None:
            self._after.close()

    def _live(self) -> None:
        try:
            if self._greet():
                threading.Thread(target=self._take, name="pipeline reader", daemon=True).start()
                self._work()
        except Broken as error:
            log.info("a session of %s ends: %s", self._segment.place.model, error)
        finally:
            self.close()

    def _greet(self) -> bool:
        hello, _ = self._before.receive(HELLO_WAIT_S)
        try:
            ready = self._reach(hello)
        except (Broken, EngineError) as error:
            log.warning("no pipeline for %s: %s", self._segment.place.model, error)
            self._before.send(Refused(message=str(error)))
            return False
        self._before.send(ready)
        return True

    def _reach(self, hello: Head) -> Ready:
        """Find the next stage, and so all later ones. Raises Broken and EngineError saying why it does not work."""
        place, loaded = self._segment.place, self._segment.loaded
        if not isinstance(hello, Hello) or (hello.model, hello.peers, hello.index) != (
            place.model,
            place.peers,
            place.stage,
        ):
            raise Broken(f"{place.node} is stage {place.stage} of {place.model} on {', '.join(place.peers)}: try again")
        began = time.monotonic()
        following = place.stage + 1
        last = following == len(place.peers)
        after = self._meeting.reach(place.peers[0 if last else following], hello.wait_s, self._check_wanted)
        self._after = after
        self._check_wanted()  # or `close` has seen what there is to close
        left_s = max(0.1, hello.wait_s - (time.monotonic() - began))
        after.send(Hello(session=hello.session, model=place.model, peers=place.peers, index=following, wait_s=left_s))
        if last:
            self._names = tuple(spec.name for spec in loaded.outputs)
            return Ready(wants=loaded.inputs, outputs=loaded.outputs)
        said, _ = after.receive(left_s)
        if isinstance(said, Refused):
            raise Broken(said.message)
        if not isinstance(said, Ready):
            raise Broken(f"{place.peers[following]} answered hello with {type(said).__name__}")
        found = passing(loaded.inputs, loaded.outputs, said.wants)
        self._names = found.names
        return Ready(wants=found.wants, outputs=said.outputs)

    def _check_wanted(self) -> None:
        if self._over.is_set():
            raise Broken("another session took its place")

    def _take(self) -> None:
        """Receive while the device computes."""
        reason = ""
        while not self._over.is_set():
            try:
                message = self._before.receive()
            except Broken as error:
                reason = str(error)
                break
            self._put(message)
        before = self._segment.place.peers[self._segment.place.stage - 1]
        self._put((Refused(message=f"stage {before} ended ({reason})"), {}))

    def _put(self, message: tuple[Head, Tensors]) -> None:
        while not self._over.is_set():
            with contextlib.suppress(queue.Full):
                self._waiting.put(message, timeout=0.2)
                return

    def _work(self) -> None:
        after = self._after
        assert after is not None  # noqa: S101 - _greet has found it
        while not self._over.is_set():
            try:
                message = self._waiting.get(timeout=0.2)
            except queue.Empty:
                continue
            if not self._hand_on(after, *message):
                return

    def _hand_on(self, after: Link, head: Head, given: Tensors) -> bool:
        """Compute one frame and send it on. False where nothing will follow."""
        if not isinstance(head, Frame):
            after.send(head)  # why it has ended
            return False
        if head.error:
            after.send(head)
            return True
        try:
            made = self._segment.run(given)
        except EngineError as error:
            after.send(Frame(number=head.number, error=f"stage {self._segment.place.node}: {error}"))
            return True
        after.send_frame(head.number, {name: made.get(name, given.get(name)) for name in self._names})  # type: ignore[misc]
        return True
