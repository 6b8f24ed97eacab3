"""An engine that is loaded beside the rest of its worker."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from reef.ports import ChatEngine, EngineError, Progress
from workers.engines.simulated import SimulatedEngine
from workers.loading import Loading


class _Slow(SimulatedEngine):
    """Says that it is half done, then waits to be told to go on."""

    def __init__(self, trace_file: Path, go_on: threading.Event, half: threading.Event) -> None:
        super().__init__("simulated", context_tokens=1024, hang_s=5.0, trace_file=trace_file)
        self.go_on, self.half = go_on, half

    def load(self, progress: Progress) -> None:
        progress(0.5, "half")
        self.half.set()
        self.go_on.wait(10)
        progress(1.0, "all")


def test_who_comes_late_hears_where_it_is_and_all_that_follows(tmp_path: Path) -> None:
    """Progress that was made before anybody listened is told first."""
    go_on, half = threading.Event(), threading.Event()
    engine = _Slow(tmp_path / "trace", go_on, half)
    loading = Loading(lambda: engine)
    assert half.wait(10)
    heard: list[tuple[float, str]] = []
    loading.tell(lambda share, note: heard.append((share, note)))
    assert heard == [(0.5, "half")]
    go_on.set()
    assert loading.wait() is engine
    assert heard == [(0.5, "half"), (1.0, "all")]
    engine.close()


def test_a_load_that_fails_is_told_to_who_waits() -> None:
    """The error of the thread comes out of `wait`, so that the worker reports it and ends."""

    def choose() -> ChatEngine:
        raise EngineError("no such model")

    with pytest.raises(EngineError, match="no such model"):
        Loading(choose).wait()
