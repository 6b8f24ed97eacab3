"""What every chat engine keeps, whatever is behind it: simulated, OpenVINO, llama.cpp, an HTTP server.

The last is llama.cpp's own server, reached as a user would reach one that already runs.
"""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import jsonschema
import psutil
import pytest
from whole_product import DEFAULT_MODEL, REAL_DATA

from reef.models import ModelFile, ModelStore
from reef.ports import ChatEngine, ChatMessage, ChatRequest, ChatResult, EngineRefused
from workers.engines.llama import LlamaEngine, environment
from workers.engines.openvino import OpenVinoEngine
from workers.engines.remote import RemoteEngine
from workers.engines.simulated import SimulatedEngine

pytestmark = pytest.mark.timeout(300)

STREAMS = 8
CONTEXT_TOKENS = 2048
SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 12}, "age": {"type": "integer", "maximum": 99}},
    "required": ["name", "age"],
    "additionalProperties": False,
}


def quiet(share: float, note: str) -> None:
    """No progress."""


@pytest.fixture(scope="session")
def model_file() -> ModelFile:
    """The default model, fetched once by the product's own code."""
    return ModelStore(REAL_DATA).pull(DEFAULT_MODEL, quiet)


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatEngine]:
    trace = tmp_path_factory.mktemp("simulated") / "trace"
    engine = SimulatedEngine(
        "simulated:token_ms=5,first_ms=300", context_tokens=CONTEXT_TOKENS, hang_s=60, trace_file=trace
    )
    engine.load(quiet)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def openvino(model_file: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChatEngine]:
    trace = tmp_path_factory.mktemp("openvino") / "trace"
    engine = OpenVinoEngine(model_file, streams=STREAMS, context_tokens=CONTEXT_TOKENS, hang_s=60, trace_file=trace)
    engine.load(quiet)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def llama(model_file: ModelFile, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaEngine]:
    trace = tmp_path_factory.mktemp("llama") / "trace"
    engine = LlamaEngine(model_file, streams=STREAMS, context_tokens=CONTEXT_TOKENS, hang_s=60, trace_file=trace)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment().items():  # read by libgomp when the engine loads it
            patch.setenv(name, value)
        engine.load(quiet)
    yield engine
    engine.close()


@pytest.fixture(scope="module")
def remote(llama: LlamaEngine) -> Iterator[ChatEngine]:
    engine = RemoteEngine(llama.address, "", api_key=llama.api_key, context_tokens=CONTEXT_TOKENS)
    engine.load(quiet)
    yield engine
    engine.close()


@pytest.fixture(params=["simulated", "openvino", "llama", "remote"])
def engine(request: pytest.FixtureRequest) -> ChatEngine:
    """Each engine in turn, loaded."""
    loaded: ChatEngine = request.getfixturevalue(request.param)
    return loaded


def ask(engine: ChatEngine, text: str, tokens_max: int = 24, **fields: object) -> tuple[str, ChatResult]:
    """The whole text of a reply and how it ended."""
    pieces: list[str] = []
    request = ChatRequest([ChatMessage("user", text)], tokens_max, temperature=0.0, **fields)  # type: ignore[arg-type]
    result = engine.generate(request, pieces.append, threading.Event())
    assert all(pieces), "an empty piece is no news"
    return "".join(pieces), result


def computed_s() -> float:
    """How long this process and those it started have computed, all processors being theirs."""
    ours = psutil.Process()
    times = [process.cpu_times() for process in (ours, *ours.children(recursive=True))]
    return sum(time.user + time.system for time in times) / len(ours.cpu_affinity() or ())


def test_it_is_an_engine(engine: ChatEngine) -> None:
    """It has the shape that tasks rely on, a name and a model."""
    assert isinstance(engine, ChatEngine)
    assert engine.name
    assert engine.model
    assert engine.context_tokens == CONTEXT_TOKENS


def test_text_and_usage(engine: ChatEngine) -> None:
    """A reply streams in pieces, is counted, and moves the step counter."""
    before = engine.steps()
    text, result = ask(engine, "Say hello to the fish in the sea.")
    assert text.strip()
    assert result.prompt_tokens > 5
    assert 1 <= result.completion_tokens <= 24
    assert result.finish_reason in ("stop", "length")
    assert engine.steps() > before


def test_length_is_kept(engine: ChatEngine) -> None:
    """A reply ends at tokens_max and says so."""
    _, result = ask(engine, "Tell me a very long story about the sea.", tokens_max=5)
    assert (result.finish_reason, result.completion_tokens) == ("length", 5)


def test_prompt_is_counted_as_it_is_charged(engine: ChatEngine) -> None:
    """count_tokens gives what a generation then reports; the remote engine can only estimate."""
    messages = [ChatMessage("system", "You are a fish."), ChatMessage("user", "Hello <b>you</b> 🐠, it's 12345!")]
    counted = engine.count_tokens(messages)
    result = engine.generate(ChatRequest(messages, 2), lambda text: None, threading.Event())
    if engine.name == "remote":
        assert result.prompt_tokens / 3 < counted < result.prompt_tokens * 3
    else:
        assert counted == result.prompt_tokens


def test_stop_strings(engine: ChatEngine) -> None:
    """The reply ends before a stop string, which is not part of it."""
    question = "Count from one to twenty in words."
    whole, _ = ask(engine, question, tokens_max=60)
    # What a small model says differs between processors: only its own words are sure to be met again.
    stop = sorted(set(whole[len(whole) // 2 :]))
    text, result = ask(engine, question, tokens_max=60, stop=stop)
    assert result.finish_reason == "stop", (whole, text)
    assert not set(stop) & set(text)


def test_schema(engine: ChatEngine) -> None:
    """With a schema the reply is JSON that satisfies it."""
    if engine.name == "simulated":
        pytest.skip("it has no model that could follow one")
    text, _ = ask(engine, "Describe Ann, who is 30 years old, as JSON.", tokens_max=120, schema=SCHEMA)
    jsonschema.validate(json.loads(text), SCHEMA)


def test_impossible_schema_is_refused_and_nothing_else_breaks(engine: ChatEngine) -> None:
    """A schema that means nothing is the request's fault, not to be tried again; the engine goes on."""
    if engine.name == "simulated":
        pytest.skip("it looks at no schema")
    with pytest.raises(EngineRefused):
        ask(engine, "x", schema={"type": "nonsense"})
    assert ask(engine, "Say hello.")[0]


def test_too_long_a_conversation_is_refused(engine: ChatEngine) -> None:
    """A prompt beyond the context is refused before anything is computed, and never retried."""
    with pytest.raises(EngineRefused):
        ask(engine, "hello " * (2 * CONTEXT_TOKENS))
    assert ask(engine, "Say hello.")[0]


def test_unicode(engine: ChatEngine) -> None:
    """Characters of several bytes survive, and no piece holds half of one."""
    text, _ = ask(engine, "Repeat exactly: 🐠 日本語 für Ελλάδα 🪸", tokens_max=40)
    assert text
    assert "\ufffd" not in text
    text.encode("utf-8")


def test_stop_while_it_writes(engine: ChatEngine) -> None:
    """A stop takes effect within 300 ms (the best of three: other processes share the machine)."""
    took = []
    for _ in range(3):
        cancel, stopped = threading.Event(), []

        def first_piece(text: str, cancel: threading.Event = cancel, stopped: list[float] = stopped) -> None:
            if not cancel.is_set():
                stopped.append(time.monotonic())
                cancel.set()

        request = ChatRequest([ChatMessage("user", "Tell me a very long story.")], 500)
        result = engine.generate(request, first_piece, cancel)
        took.append(time.monotonic() - stopped[0])
        assert result.finish_reason == "cancelled"
        assert result.completion_tokens < 50
    assert min(took) < 0.3


def test_stop_while_it_reads(engine: ChatEngine) -> None:
    """A stop is heard during the processing of a long prompt, between two batches of it; no token comes."""
    long = " ".join(f"word{place}" for place in range(CONTEXT_TOKENS // 4 - 100))
    for attempt in range(2):
        cancel, pieces = threading.Event(), []
        # begins like no other: the remote engine is the same server, and a prompt that it knows is read at once
        request = ChatRequest([ChatMessage("user", f"{engine.name} {attempt} {uuid.uuid4().hex} {long}")], 100)
        timer = threading.Timer(0.1, cancel.set)
        timer.start()
        began, before_s = time.monotonic(), computed_s()
        result = engine.generate(request, pieces.append, cancel)
        # other processes share the machine: what they compute meanwhile does not count
        took_s = min(time.monotonic() - began, computed_s() - before_s)
        timer.join()
        assert (result.finish_reason, result.completion_tokens, pieces) == ("cancelled", 0, [])
        if took_s < (3.0 if engine.name == "llama" else 1.5):
            return
    pytest.fail(f"a stop took {took_s:.1f} s")


def test_stop_before_it_begins(engine: ChatEngine) -> None:
    """A request whose stop came first costs nothing."""
    cancel = threading.Event()
    cancel.set()
    result = engine.generate(ChatRequest([ChatMessage("user", "hi")], 100), lambda text: None, cancel)
    assert result.finish_reason == "cancelled"
    assert result.completion_tokens <= 1


def test_eight_at_once(engine: ChatEngine) -> None:
    """Eight callers are served at the same time, each with its own text, and each waits for all less than in a row."""
    live, most, lock = set(), [0], threading.Lock()

    def one(place: int) -> tuple[str, ChatResult]:
        pieces: list[str] = []

        def hear(text: str) -> None:
            pieces.append(text)
            with lock:
                live.add(place)
                most[0] = max(most[0], len(live))

        request = ChatRequest([ChatMessage("user", f"Write about the number {place}.")], 40, temperature=0.0)
        result = engine.generate(request, hear, threading.Event())
        with lock:
            live.discard(place)
        return "".join(pieces), result

    with ThreadPoolExecutor(STREAMS) as callers:
        answers = list(callers.map(one, range(STREAMS)))
    assert all(text and result.completion_tokens for text, result in answers)
    assert len({text for text, _ in answers}) > STREAMS / 2
    assert most[0] >= STREAMS / 2


def test_listener_that_fails(engine: ChatEngine) -> None:
    """An exception of on_text comes out of generate, and the engine serves the next one."""

    def fail(text: str) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        engine.generate(ChatRequest([ChatMessage("user", "Tell a story.")], 50), fail, threading.Event())
    assert ask(engine, "Say hello.")[0]


def test_both_local_engines_read_alike(openvino: OpenVinoEngine, llama: LlamaEngine) -> None:
    """The tokenizer we build for OpenVINO divides text exactly as llama.cpp does with the same file."""
    texts = [
        "Hello, world! it's we'll I'M 12345 3.14159",
        "tabs\tand\nnew\n\n\nlines   and  spaces   ",
        "a<b|c>d <|im_end|> </s> {{x}} || <",
        "日本語のテキスト 한국어 Ελλάδα für naïve café",
        "🐠🪸 👩‍👩‍👧 zero\u200bwidth \u00a0nbsp",
        "def f(x):\n    return x ** 2  # comment\n\tassert f(3) == 9",
        "https://example.org/a?b=c&d=%20 user@example.org",
    ]
    for text in texts:
        messages = [ChatMessage("user", text)]
        assert openvino.prompt_ids(messages) == llama.prompt_ids(messages), text


def test_second_start_compiles_nothing(model_file: ModelFile, openvino: OpenVinoEngine, tmp_path: Path) -> None:
    """What the first start prepared is what the second one loads: no file is written anew, and it answers."""
    before = {path: path.stat().st_mtime_ns for path in model_file.cache_dir.rglob("*") if path.is_file()}
    again = OpenVinoEngine(
        model_file, streams=1, context_tokens=CONTEXT_TOKENS, hang_s=60, trace_file=tmp_path / "trace"
    )
    again.load(quiet)
    assert ask(again, "Say hello.")[0]
    again.close()
    after = {path: path.stat().st_mtime_ns for path in model_file.cache_dir.rglob("*") if path.is_file()}
    assert {path: after.get(path) for path in before} == before
