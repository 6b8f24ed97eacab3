"""What only the simulated engine does: saying what it is, and misbehaving on demand."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from reef.ports import ChatMessage, ChatRequest, EngineError
from workers.engines.simulated import LABEL, SimulatedEngine

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys, threading
from pathlib import Path
from reef.ports import ChatMessage, ChatRequest
from workers.engines.simulated import SimulatedEngine

trace, hang_s = Path(sys.argv[2]), float(sys.argv[3])
engine = SimulatedEngine("simulated:token_ms=0", context_tokens=512, hang_s=hang_s, trace_file=trace)
engine.generate(ChatRequest([ChatMessage("user", sys.argv[1])], 10), print, threading.Event())
"""


def say(engine: SimulatedEngine, text: str, tokens_max: int = 100) -> str:
    """The whole reply."""
    pieces: list[str] = []
    engine.generate(ChatRequest([ChatMessage("user", text)], tokens_max), pieces.append, threading.Event())
    return "".join(pieces)


def misbehave(text: str, trace: Path, hang_s: float = 30.0) -> int:
    """Exit status of a process that is told this."""
    argv = [sys.executable, "-c", PROGRAM, text, str(trace), str(hang_s)]
    return subprocess.run(argv, cwd=ROOT, capture_output=True, timeout=60, check=False).returncode


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[SimulatedEngine]:
    """A simulated device without delays."""
    made = SimulatedEngine("simulated:token_ms=0", context_tokens=512, hang_s=60, trace_file=tmp_path / "trace")
    yield made
    made.close()


def test_every_reply_says_that_it_is_simulated(engine: SimulatedEngine) -> None:
    """The label comes first, then the words of the message; the same each time."""
    assert say(engine, "two words").startswith(f"{LABEL} You said: two words")
    assert say(engine, "two words") == say(engine, "two words")
    assert say(engine, "").startswith(LABEL)


def test_pace_that_means_nothing(tmp_path: Path) -> None:
    """A model name with an unknown pace is refused with those that are known."""
    with pytest.raises(EngineError, match="token_ms=N and first_ms=N"):
        SimulatedEngine("simulated:speed=9", context_tokens=512, hang_s=60, trace_file=tmp_path / "trace")


def test_faults_on_demand(engine: SimulatedEngine, tmp_path: Path) -> None:
    """A poison message kills the process by SIGKILL; a hang is ended by the watchdog; a failure is an EngineError."""
    assert misbehave("!crash now", tmp_path / "t") == -signal.SIGKILL
    assert misbehave("!hang 20", tmp_path / "t", hang_s=0.5) == 1
    assert "_obey" in (tmp_path / "t").read_text(encoding="utf-8")
    assert misbehave("!hang 0.01", tmp_path / "t") == 0
    with pytest.raises(EngineError):
        say(engine, "!fail")
