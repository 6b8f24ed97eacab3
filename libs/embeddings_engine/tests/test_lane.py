"""Who gets the device next. The backend here is scripted; the lane, the engine and the threads are real."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from embeddings_engine import BackendFailed, Cancelled, Closed, EmbeddingsEngine, VectorCache
from embeddings_engine.backends.base import Traits, Usage, Vectors
from embeddings_engine.estimates import estimated_items, estimated_tokens, estimated_windows
from embeddings_engine.tokens import Item, Span

WAIT_S = 30


class Scripted:
    """A backend whose calls wait until the test lets them go."""

    def __init__(self, batch_max: int = 1, calls_at_once: int = 1, urgent_calls: int = 0) -> None:
        self.traits = Traits(
            name="scripted",
            model="scripted",
            device="cpu",
            fingerprint="scripted",
            dimensions=4,
            window_tokens=50,
            batch_max=batch_max,
            calls_at_once=calls_at_once,
            urgent_calls=urgent_calls,
        )
        self.calls: list[list[str]] = []
        self.entered = threading.Semaphore(0)
        self.gate = threading.Semaphore(0)
        self.open = False

    def prepare(self, texts: Sequence[str]) -> list[Item]:
        return estimated_items(texts)

    def count(self, texts: Sequence[str]) -> list[int]:
        return [estimated_tokens(text) for text in texts]

    def windows(self, text: str, tokens_max: int) -> list[Span]:
        return estimated_windows(text, tokens_max)

    def run(self, items: Sequence[Item], *, query: bool) -> Vectors:
        self.calls.append([item.text for item in items])
        self.entered.release()
        if not self.open:
            assert self.gate.acquire(timeout=WAIT_S)
        if any(item.text == "bad" for item in items):
            raise BackendFailed("a bad text")
        return np.array([[len(item.text), 1, 0, 0] for item in items], dtype=np.float32)

    def usage(self) -> Usage:
        return Usage()

    def close(self) -> None:
        self.open = True


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(16) as pool:
        yield pool


def started(backend: Scripted) -> EmbeddingsEngine:
    return EmbeddingsEngine(backend=backend, cache=VectorCache())


def queued(engine: EmbeddingsEngine, check: Callable[[tuple[int, int]], bool]) -> None:
    """Wait until calls have reached the lane, which counts the one that runs, too."""
    pause = threading.Event()
    for _ in range(WAIT_S * 200):
        if check(engine._lane.waiting()):
            return
        pause.wait(0.005)
    raise AssertionError(engine._lane.waiting())


def test_a_question_waits_for_one_device_call_at_most(threads: ThreadPoolExecutor) -> None:
    """Handed in while a bulk call of 20 texts runs its first, it is the second."""
    backend = Scripted()
    engine = started(backend)
    bulk = threads.submit(engine.encode, [f"document {n}" for n in range(20)])
    assert backend.entered.acquire(timeout=WAIT_S)
    question = threads.submit(engine.encode_query, "question")
    queued(engine, lambda waiting: waiting[0] == 1)
    backend.open = True
    backend.gate.release()
    assert question.result(WAIT_S).shape == (4,)
    assert bulk.result(WAIT_S).shape == (20, 4)
    assert backend.calls[1] == ["question"]
    engine.close()


def test_callers_that_wait_together_run_together(threads: ThreadPoolExecutor) -> None:
    """Ten single texts that come while the device is busy are one batch, and each caller gets its own vector."""
    backend = Scripted(batch_max=32)
    engine = started(backend)
    first = threads.submit(engine.encode, "first")
    assert backend.entered.acquire(timeout=WAIT_S)
    rest = [threads.submit(engine.encode, "x" * (n + 1)) for n in range(10)]
    queued(engine, lambda waiting: waiting[0] == 1 + 10)
    backend.open = True
    backend.gate.release()
    assert [int(future.result(WAIT_S)[0]) for future in rest] == list(range(1, 11))
    assert first.result(WAIT_S)[0] == 5
    assert [len(call) for call in backend.calls] == [1, 10]
    engine.close()


def test_one_bad_text_fails_its_own_caller_only(threads: ThreadPoolExecutor) -> None:
    """A batch that fails is run again, one caller at a time."""
    backend = Scripted(batch_max=32)
    engine = started(backend)
    threads.submit(engine.encode, "first")
    assert backend.entered.acquire(timeout=WAIT_S)
    good, bad = threads.submit(engine.encode, "good"), threads.submit(engine.encode, "bad")
    queued(engine, lambda waiting: waiting[0] == 1 + 2)
    backend.open = True
    backend.gate.release()
    assert good.result(WAIT_S).shape == (4,)
    with pytest.raises(BackendFailed, match="a bad text"):
        bad.result(WAIT_S)
    engine.close()


def test_cancel_ends_between_two_device_calls(threads: ThreadPoolExecutor) -> None:
    """After the running call no other one of this work is made, not even of the texts tokenised ahead."""
    backend = Scripted()
    engine = started(backend)
    cancel = threading.Event()
    work = threads.submit(engine.encode, [f"text {n}" for n in range(300)], cancel=cancel)
    assert backend.entered.acquire(timeout=WAIT_S)
    cancel.set()
    backend.gate.release()
    with pytest.raises(Cancelled):
        work.result(WAIT_S)
    queued(engine, lambda waiting: waiting == (0, 0) or len(backend.calls) > 1)
    assert len(backend.calls) == 1
    engine.close()


def test_cancelling_an_async_call_ends_its_work() -> None:
    """The task is cancelled at once; the device is free after the call that runs."""
    backend = Scripted()
    engine = started(backend)

    async def scenario() -> None:
        task = asyncio.create_task(engine.aencode(["one", "two", "three"]))
        assert await asyncio.to_thread(backend.entered.acquire, True, WAIT_S)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        backend.open = True
        backend.gate.release()
        assert (await engine.aencode("after")).shape == (4,)

    asyncio.run(scenario())
    assert len(backend.calls) == 2
    engine.close()


def test_closing_wakes_who_waits(threads: ThreadPoolExecutor) -> None:
    """A call that waits ends as Closed, and so does one that comes later."""
    backend = Scripted()
    engine = started(backend)
    threads.submit(engine.encode, "first")
    assert backend.entered.acquire(timeout=WAIT_S)
    waits = threads.submit(engine.encode, "second")
    queued(engine, lambda waiting: waiting[0] == 1 + 1)
    closing = threads.submit(engine.close)
    with pytest.raises(Closed):
        waits.result(WAIT_S)
    backend.gate.release()
    closing.result(WAIT_S)
    with pytest.raises(Closed):
        engine.encode("third")


def test_bulk_calls_share_the_device(threads: ThreadPoolExecutor) -> None:
    """A short bulk call does not wait for the end of a long one."""
    backend = Scripted()
    engine = started(backend)
    long = threads.submit(engine.encode, [f"long {n}" for n in range(30)])
    assert backend.entered.acquire(timeout=WAIT_S)
    short = threads.submit(engine.encode, ["short 1", "short 2"])
    queued(engine, lambda waiting: waiting[1] == 1 + 1)
    backend.open = True
    backend.gate.release()
    short.result(WAIT_S)
    long.result(WAIT_S)
    texts = [call[0] for call in backend.calls]
    assert max(texts.index("short 1"), texts.index("short 2")) < 6
    engine.close()


def test_services_get_several_calls_at_once(threads: ThreadPoolExecutor) -> None:
    """With `calls_at_once` of 3 three batches are under way before the first has ended."""
    backend = Scripted(calls_at_once=3)
    engine = started(backend)
    work = threads.submit(engine.encode, ["one", "two", "three", "four"])
    assert all(backend.entered.acquire(timeout=WAIT_S) for _ in range(3))
    backend.open = True
    backend.gate.release(3)
    assert [int(row[0]) for row in work.result(WAIT_S)] == [3, 3, 5, 4]
    engine.close()


def test_an_urgent_call_waits_for_none_that_runs(threads: ThreadPoolExecutor) -> None:
    """A question is computed while a document holds the device, by a thread that documents never slow down."""
    backend = Scripted(urgent_calls=1)
    slowed: list[str] = []
    engine = EmbeddingsEngine(
        backend=backend, cache=VectorCache(), before_bulk=lambda: slowed.append(threading.current_thread().name)
    )
    bulk = threads.submit(engine.encode, ["document one", "document two"])
    assert backend.entered.acquire(timeout=WAIT_S)
    question = threads.submit(engine.encode_query, "question")
    assert backend.entered.acquire(timeout=WAIT_S), "it began while the document was computed"
    assert backend.calls == [["document one"], ["question"]]
    backend.gate.release(2)
    question.result(WAIT_S)
    backend.open = True
    backend.gate.release()
    bulk.result(WAIT_S)
    assert slowed == ["embeddings-lane-0"] * 2
    engine.close()


def test_no_document_begins_while_an_urgent_call_runs(threads: ThreadPoolExecutor) -> None:
    """The processor is the question's until its vector is there."""
    backend = Scripted(urgent_calls=1)
    engine = started(backend)
    question = threads.submit(engine.encode_query, "question")
    assert backend.entered.acquire(timeout=WAIT_S)
    bulk = threads.submit(engine.encode, ["document"], priority="bulk")
    assert not backend.entered.acquire(timeout=0.1)
    backend.open = True
    backend.gate.release()
    question.result(WAIT_S)
    bulk.result(WAIT_S)
    assert backend.calls == [["question"], ["document"]]
    engine.close()


def test_a_guard_surrounds_every_device_call_and_steps_count_them() -> None:
    """A watchdog can be armed around each call, and the counter tells that the device lives."""
    inside: list[int] = []

    class Guard:
        def __enter__(self) -> None:
            inside.append(1)

        def __exit__(self, *args: object) -> None:
            inside.append(-1)

    backend = Scripted()
    backend.open = True
    engine = EmbeddingsEngine(backend=backend, cache=VectorCache(), guard=Guard)
    engine.encode(["one", "two"])
    assert inside == [1, -1, 1, -1]
    assert engine.steps == 2
    engine.close()


def test_an_empty_text_keeps_its_vector_beside_a_long_one() -> None:
    """Windows are weighted by tokens; a text of none still counts."""
    backend = Scripted(batch_max=8)
    backend.open = True
    engine = started(backend)
    rows = engine.encode(["", "long text. " * 40])
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-6)
    engine.close()
