"""The OpenVINO engine and its device process when things go wrong. Callers must be failed, never left waiting."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from whole_product import DEFAULT_MODEL, REAL_DATA

from reef.models import ModelFile, ModelStore
from reef.ports import ChatMessage, ChatRequest, EngineError
from workers.engines.openvino import OpenVinoEngine
from workers.engines.openvino_cache import prepared
from workers.engines.openvino_device import RESTARTS_MAX, Device
from workers.engines.openvino_wire import Answer, Cancel, End, Generate, Open, Opened, Request, Step, Wire
from workers.watchdog import Watchdog

pytestmark = pytest.mark.timeout(300)

ROOT = Path(__file__).parents[2]
LONG = ChatRequest([ChatMessage("user", "Tell me a very long story.")], 400)


def quiet(share: float, note: str) -> None:
    """No progress."""


@pytest.fixture(scope="module")
def model() -> ModelFile:
    """The default model."""
    return ModelStore(REAL_DATA).pull(DEFAULT_MODEL, quiet)


class Breaking:
    """A pipeline whose steps fail when told to."""

    def __init__(self, real: Any, error: Callable[[], BaseException | None]) -> None:
        self._real, self._error = real, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def step(self) -> None:
        if error := self._error():
            raise error
        self._real.step()


class Talk:
    """A device in a thread, spoken to as the worker's side does."""

    def __init__(self, model: ModelFile, tmp_path: Path) -> None:
        ours, theirs = socket.socketpair()
        ours.settimeout(120)
        self.wire: Wire[Answer] = Wire(ours, Answer)
        device_end: Wire[Request] = Wire(theirs, Request)
        self.watchdog = Watchdog(60, tmp_path / "trace")
        self.device = Device(device_end, self.watchdog)
        self.raised: BaseException | None = None

        def serve() -> None:
            try:
                self.device.serve()
            except BaseException as error:
                self.raised = error
            finally:
                theirs.close()

        self.thread = threading.Thread(target=serve)
        self.thread.start()
        self.tokens: dict[int, list[int]] = {}
        folder, manifest = prepared(model, len(os.sched_getaffinity(0)), quiet)
        self.wire.send(Open(str(folder), manifest.blob, 2, 512, 4, 256, manifest.end_ids))
        assert self.hear(1, Opened) == [Opened()]

    def ask(self, number: int, tokens_max: int = 400) -> None:
        self.wire.send(Generate(number, LONG.messages, 512, tokens_max, 0.0, 1.0, 1.0, None, None))

    def hear(self, count: int, kind: type = End) -> list[Any]:
        """So many answers of a kind (ends are found in steps)."""
        heard: list[Any] = []
        while len(heard) < count:
            for answer in self.wire.receive():
                if isinstance(answer, Step):
                    for number, tokens in answer.tokens:
                        self.tokens.setdefault(number, []).extend(tokens)
                    heard += answer.ends if kind is End else []
                elif isinstance(answer, kind):
                    heard.append(answer)
        return heard

    def wait_for_tokens(self, numbers: Sequence[int]) -> None:
        while not all(self.tokens.get(number) for number in numbers):
            for answer in self.wire.receive():
                assert isinstance(answer, Step)
                for number, tokens in answer.tokens:
                    self.tokens.setdefault(number, []).extend(tokens)

    def close(self) -> None:
        self.wire.sock.close()
        self.thread.join(30)
        assert not self.thread.is_alive()
        self.watchdog.close()


@pytest.fixture
def talk(model: ModelFile, tmp_path: Path) -> Iterator[Talk]:
    talking = Talk(model, tmp_path)
    yield talking
    talking.close()


def test_failed_step_ends_what_runs_and_the_device_goes_on(talk: Talk) -> None:
    """Generations end as failed (their jobs are tried again), the pipeline is built anew, the next one is served."""
    for number in (1, 2, 3):
        talk.ask(number)
    talk.wait_for_tokens((1, 2, 3))
    talk.device._pipeline = Breaking(talk.device._pipeline, lambda: RuntimeError("device lost"))
    ends = talk.hear(3)
    assert {end.id for end in ends} == {1, 2, 3}
    assert all(end.reason == "failed" and "device lost" in end.error for end in ends)
    talk.ask(4, tokens_max=10)
    (end,) = talk.hear(1)
    assert (end.reason, len(talk.tokens[4])) == ("length", 10)


def test_device_that_stays_broken_is_given_up(talk: Talk) -> None:
    """Steps that fail again and again end the device instead of rebuilding it for ever; each caller was told."""
    build = talk.device._build

    def broken_again(request: Open) -> None:
        build(request)
        talk.device._pipeline = Breaking(talk.device._pipeline, lambda: RuntimeError("still lost"))

    talk.device._build = broken_again  # type: ignore[method-assign]
    talk.device._pipeline = Breaking(talk.device._pipeline, lambda: RuntimeError("lost"))
    for number in range(RESTARTS_MAX):
        talk.ask(number)
        (end,) = talk.hear(1)
        assert end.reason == "failed"
    talk.thread.join(30)
    assert str(talk.raised) == "still lost"


def test_cancelled_generation_leaves_the_batch(talk: Talk) -> None:
    """A cancelled generation ends at once, with what it has; its neighbour goes on to its own end."""
    talk.ask(1)
    talk.ask(2, tokens_max=60)
    talk.wait_for_tokens((1, 2))
    talk.wire.send(Cancel(1))
    first, second = talk.hear(2)
    assert (first.id, first.reason) == (1, "cancelled")
    assert (second.id, second.reason, len(talk.tokens[2])) == (2, "length", 60)
    assert first.prompt_tokens > 5


@pytest.fixture
def died() -> list[str]:
    """Reasons given to on_dead."""
    return []


@pytest.fixture
def engine(model: ModelFile, tmp_path: Path, died: list[str]) -> Iterator[OpenVinoEngine]:
    loaded = OpenVinoEngine(
        model, streams=4, context_tokens=512, hang_s=60, trace_file=tmp_path / "trace", on_dead=died.append
    )
    loaded.load(quiet)
    yield loaded
    loaded.close()


def device_pid(engine: OpenVinoEngine) -> int:
    assert engine._process is not None
    return engine._process.pid


def test_killed_device_process_fails_everybody(engine: OpenVinoEngine, died: list[str]) -> None:
    """When the device process dies, running and later requests fail at once; the worker is told once, to leave."""
    writing = threading.Barrier(4)

    def one(_place: int) -> str:
        begun: list[bool] = []

        def hear(text: str) -> None:
            if not begun:
                begun.append(True)
                writing.wait(60)

        with pytest.raises(EngineError) as raised:
            engine.generate(LONG, hear, threading.Event())
        return str(raised.value)

    with ThreadPoolExecutor(3) as pool:
        futures = [pool.submit(one, place) for place in range(3)]
        writing.wait(60)
        os.kill(device_pid(engine), signal.SIGKILL)
        assert all("signal 9" in future.result(60) for future in futures)
    with pytest.raises(EngineError, match="has stopped"):
        engine.generate(LONG, lambda text: None, threading.Event())
    with pytest.raises(EngineError, match="has stopped"):
        engine.count_tokens(LONG.messages)
    assert died == ["signal 9"]


def test_frozen_device_process_is_ended(model: ModelFile, tmp_path: Path, died: list[str]) -> None:
    """A device process that is silent though it has work is killed: its own watchdog sleeps with it."""
    engine = OpenVinoEngine(
        model, streams=1, context_tokens=512, hang_s=60, trace_file=tmp_path / "trace", on_dead=died.append
    )
    engine.load(quiet)
    engine._hang_s = 0.5  # the device's own watchdog has its minute: a slow step is not what this is about

    def freeze(text: str) -> None:
        os.kill(device_pid(engine), signal.SIGSTOP)

    with pytest.raises(EngineError, match="signal 9"):
        engine.generate(LONG, freeze, threading.Event())
    assert died == ["signal 9"]
    engine.close()


def test_closing_ends_what_runs(engine: OpenVinoEngine, died: list[str]) -> None:
    """Generations in flight end as cancelled when the engine is closed; later ones are refused."""
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.generate, LONG, lambda text: begun.set(), threading.Event())
        assert begun.wait(60)
        engine.close()
        assert running.result(30).finish_reason == "cancelled"
    with pytest.raises(EngineError):
        engine.generate(LONG, lambda text: None, threading.Event())
    assert not died


def test_device_process_does_not_outlive_its_worker(model: ModelFile, tmp_path: Path) -> None:
    """kill -9 of the worker takes its device process along: no device has two owners."""
    program = (
        "import sys, threading; from pathlib import Path; from reef.models import ModelStore; "
        "from workers.engines.openvino import OpenVinoEngine as E; "
        f"e = E(ModelStore(Path({str(REAL_DATA)!r})).resolve({DEFAULT_MODEL!r}), streams=1, context_tokens=512, "
        f"hang_s=60, trace_file=Path({str(tmp_path / 'trace')!r})); e.load(lambda share, note: None); "
        "print(e._process.pid, flush=True); threading.Event().wait()"
    )
    worker = subprocess.Popen([sys.executable, "-c", program], cwd=ROOT, stdout=subprocess.PIPE)
    assert worker.stdout is not None
    device = int(worker.stdout.readline())
    assert Path(f"/proc/{device}").exists()
    worker.kill()
    worker.wait()
    worker.stdout.close()
    deadline = time.monotonic() + 10
    while _runs(device):
        assert time.monotonic() < deadline, "the device process lives on"
        time.sleep(0.01)


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_no_telemetry_is_loaded() -> None:
    """OpenVINO's telemetry client is not even imported by a fresh process that loads the engine's libraries."""
    program = (
        "import sys; from workers.engines.openvino_parts import plain_import; plain_import(); "
        "sys.exit(sys.modules.get('openvino_telemetry') is not None)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=False).returncode == 0
