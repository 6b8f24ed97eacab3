"""A device that is not there, for capacity tests and benches. It says so in every reply and is never chosen by itself.

It echoes the last message word by word, a word a token, at a given pace. Messages that begin with a command make it
fail the way devices fail, so that what happens then can be tried on a running product:

    !crash       the process is killed at once
    !hang N      a native call of N seconds that holds the interpreter lock: only the watchdog can end it
    !fail        the engine reports an error, which is worth another try

The model's name sets the pace: `simulated`, or `simulated:token_ms=5,first_ms=100`; and what its loading costs:
`load_ms=500` takes half a second, `memory_mb=2000` asks for that much room beside what serves already.
"""

from __future__ import annotations

import ctypes
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from reef.ports import ChatMessage, ChatRequest, ChatResult, EngineError, EngineRefused, Progress
from workers.engines.text import StopStrings
from workers.watchdog import Watchdog

TOKEN_MS = 20.0
FIRST_MS = 0.0
LOAD_STEPS = 10
WORDS_MIN = 30
WORDS_PER_WORD_SAID = 3
LABEL = "This reply is simulated, no model wrote it."
FILLER = tuple(
    "The tide comes in over the reef, and small fish turn in the light, and the tide goes out again.".split()  # noqa: SIM905
)


class SimulatedEngine:
    """reef.ports.ChatEngine without a model."""

    name = "simulated"

    def __init__(self, model: str, *, context_tokens: int, hang_s: float, trace_file: Path) -> None:
        """Raises EngineError where the model's name does not say a pace this device understands."""
        self.model, self.context_tokens = model, context_tokens
        pace = _pace(model)
        self._token_s, self._first_s = pace["token_ms"] / 1000, pace["first_ms"] / 1000
        self._load_s = pace["load_ms"] / 1000
        self._watchdog = Watchdog(hang_s, trace_file)
        self._steps = 0
        self._closed = threading.Event()

    def load(self, progress: Progress) -> None:
        """There is nothing to load; it only takes the time it was told to."""
        for step in range(LOAD_STEPS if self._load_s else 0):
            progress(step / LOAD_STEPS, f"Loading {self.model}")
            if self._closed.wait(self._load_s / LOAD_STEPS):
                raise EngineError("The simulated device was closed while it was loaded.")
        progress(1.0, "simulated device: nothing to load")

    def generate(self, request: ChatRequest, on_text: Callable[[str], None], cancel: threading.Event) -> ChatResult:
        """Echo the last message (see reef.ports.ChatEngine)."""
        prompt_tokens = self.count_tokens(request.messages)
        if prompt_tokens >= self.context_tokens:
            raise EngineRefused(
                f"The conversation has {prompt_tokens} tokens; this device takes {self.context_tokens}."
            )
        said = request.messages[-1].content if request.messages else ""
        self._obey(said)
        tokens, stops = 0, StopStrings(request.stop)
        cancel.wait(self._first_s)
        for piece in _words(said):
            if tokens >= request.tokens_max:
                return ChatResult("length", prompt_tokens, tokens)
            if cancel.wait(self._token_s) if self._token_s else cancel.is_set():
                return ChatResult("cancelled", prompt_tokens, tokens)
            if self._closed.is_set():
                return ChatResult("cancelled", prompt_tokens, tokens)
            self._steps += 1
            tokens += 1
            if text := stops.feed(piece):
                on_text(text)
            if stops.hit:
                return ChatResult("stop", prompt_tokens, tokens)
        if text := stops.rest():
            on_text(text)
        return ChatResult("stop", prompt_tokens, tokens)

    def count_tokens(self, messages: Sequence[ChatMessage]) -> int:
        """A token a word, and four for each message."""
        return sum(len(message.content.split()) + 4 for message in messages)

    def tokens(self) -> int:
        """Words written so far."""
        return self._steps

    def steps(self) -> int:
        """Words written so far."""
        return self._steps

    def close(self) -> None:
        """Generations in flight end as cancelled."""
        self._closed.set()
        self._watchdog.close()

    def _obey(self, said: str) -> None:
        command, _, argument = said.partition(" ")
        if command == "!crash":
            os.kill(os.getpid(), signal.SIGKILL)
        elif command == "!fail":
            raise EngineError("The simulated device failed, as it was told to.")
        elif command == "!hang":
            # PyDLL keeps the interpreter lock during the call, as a driver that hangs may do
            with self._watchdog.guard():
                ctypes.PyDLL(None).usleep(int(float(argument or 60) * 1_000_000))


def _words(said: str) -> Iterator[str]:
    words = [*LABEL.split(), "You", "said:", *said.split()]
    count = WORDS_MIN + WORDS_PER_WORD_SAID * len(said.split())
    yield words[0]
    for place in range(1, max(count, len(words))):
        word = words[place] if place < len(words) else FILLER[(place - len(words)) % len(FILLER)]
        yield f" {word}"


def memory_bytes(model: str) -> int:
    """What this device is told to need. Raises EngineError as its making does."""
    return int(_pace(model)["memory_mb"] * 1_000_000)


def _pace(model: str) -> dict[str, float]:
    pace = {"token_ms": TOKEN_MS, "first_ms": FIRST_MS, "load_ms": 0.0, "memory_mb": 0.0}
    for part in filter(None, model.partition(":")[2].split(",")):
        name, _, value = part.partition("=")
        if name not in pace or not value.replace(".", "", 1).isdigit():
            raise EngineError(
                f"model {model!r}: the simulated device understands token_ms=N and first_ms=N, load_ms=N, memory_mb=N."
            )
        pace[name] = float(value)
    return pace
