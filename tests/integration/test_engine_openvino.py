"""The OpenVINO engine when things go wrong inside it. It must fail its callers, never leave them waiting."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from whole_product import DEFAULT_MODEL, REAL_DATA

from reef.models import ModelStore
from reef.ports import ChatMessage, ChatRequest, EngineError
from workers.engines.openvino import RESTARTS_MAX, OpenVinoEngine

pytestmark = pytest.mark.timeout(300)

LONG = ChatRequest([ChatMessage("user", "Tell me a very long story.")], 400)


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


@pytest.fixture
def died() -> list[str]:
    """Reasons given to on_dead."""
    return []


@pytest.fixture
def engine(tmp_path: Path, died: list[str]) -> Iterator[OpenVinoEngine]:
    model = ModelStore(REAL_DATA).pull(DEFAULT_MODEL, lambda share, note: None)
    loaded = OpenVinoEngine(
        model, streams=4, context_tokens=512, hang_s=60, trace_file=tmp_path / "trace", on_dead=died.append
    )
    loaded.load(lambda share, note: None)
    yield loaded
    loaded.close()


def run_until_broken(engine: OpenVinoEngine, error: BaseException, callers: int = 3) -> list[BaseException | None]:
    """Start generations, break the pipeline once all of them write, and give how each ended."""
    writing = threading.Barrier(callers + 1)
    broken = threading.Event()

    def one(place: int) -> BaseException | None:
        begun = []

        def hear(text: str) -> None:
            if not begun:
                begun.append(True)
                writing.wait(60)

        try:
            engine.generate(LONG, hear, threading.Event())
        except EngineError as raised:
            return raised
        return None

    def fault() -> BaseException | None:
        return error if broken.is_set() else None

    engine._pipeline = Breaking(engine._pipeline, fault)
    with ThreadPoolExecutor(callers) as pool:
        futures = [pool.submit(one, place) for place in range(callers)]
        writing.wait(60)
        broken.set()
        return [future.result(60) for future in futures]


def test_failed_step_ends_what_runs_and_the_engine_goes_on(engine: OpenVinoEngine, died: list[str]) -> None:
    """Callers get EngineError (their jobs are tried again), the pipeline is built anew, the next request is served."""
    ends = run_until_broken(engine, RuntimeError("device lost"))
    assert all("device lost" in str(end) for end in ends)
    pieces: list[str] = []
    result = engine.generate(ChatRequest([ChatMessage("user", "Say hello.")], 10), pieces.append, threading.Event())
    assert result.completion_tokens
    assert pieces
    assert not died


def test_dead_thread_fails_everybody(engine: OpenVinoEngine, died: list[str]) -> None:
    """When the engine's thread itself ends, running and later requests fail at once; the worker is told to leave."""
    ends = run_until_broken(engine, MemoryError("no memory"))
    assert all("no memory" in str(end) for end in ends)
    with pytest.raises(EngineError, match="has stopped"):
        engine.generate(LONG, lambda text: None, threading.Event())
    assert died == ["no memory"]


def test_device_that_stays_broken_is_given_up(engine: OpenVinoEngine, died: list[str]) -> None:
    """Steps that fail again and again end the engine instead of rebuilding it for ever."""
    reopen, gone = engine._open, threading.Event()

    def broken_again(*prepared: Any) -> None:
        reopen(*prepared)
        engine._pipeline = Breaking(engine._pipeline, lambda: RuntimeError("still lost"))

    engine._open = broken_again  # type: ignore[method-assign]
    engine._on_dead = lambda reason: (died.append(reason), gone.set())
    engine._pipeline = Breaking(engine._pipeline, lambda: RuntimeError("lost"))
    for _ in range(RESTARTS_MAX):
        with pytest.raises(EngineError):
            engine.generate(LONG, lambda text: None, threading.Event())
    assert gone.wait(30)
    assert died == ["still lost"]


def test_closing_ends_what_runs(engine: OpenVinoEngine) -> None:
    """Generations in flight end as cancelled when the engine is closed; later ones are refused."""
    begun = threading.Event()
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(engine.generate, LONG, lambda text: begun.set(), threading.Event())
        assert begun.wait(60)
        engine.close()
        assert running.result(30).finish_reason == "cancelled"
    with pytest.raises(EngineError):
        engine.generate(LONG, lambda text: None, threading.Event())


def test_no_telemetry_is_loaded() -> None:
    """OpenVINO's telemetry client is not even imported by a fresh process that loads the engine's libraries."""
    program = (
        "import sys; from workers.engines.openvino_parts import plain_import; plain_import(); "
        "sys.exit(sys.modules.get('openvino_telemetry') is not None)"
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=Path(__file__).parents[2], check=False).returncode == 0
