"""What a caller sees of the engine, on a small real model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from tiny_checkpoint import HIDDEN, write_checkpoint

from embeddings_engine import BackendUnavailable, EmbeddingsEngine, ModelUnavailable


def test_shapes_and_order(engine: EmbeddingsEngine) -> None:
    """One text gives a row, a list a matrix in the list's order, whatever the lengths and doubles."""
    texts = ["the sea is calm today", "a", "wind " * 30, "a", ""]
    rows = engine.encode(texts)
    assert rows.shape == (5, HIDDEN)
    assert rows.dtype == np.float32
    for text, row in zip(texts, rows, strict=True):
        np.testing.assert_allclose(engine.encode(text), row, atol=1e-6)
    assert engine.encode([]).shape == (0, HIDDEN)


def test_many_texts_in_slabs_equal_each_alone(engine: EmbeddingsEngine, tiny: Path) -> None:
    """1,500 texts are tokenised in slabs and sorted by length; none is mixed up with another."""
    random = np.random.default_rng(0)
    texts = [" ".join(random.choice(["the", "sea", "wind", "calm", "q1"], random.integers(1, 60))) for _ in range(1500)]
    seen: list[tuple[int, int]] = []
    rows = engine.encode(texts, progress=lambda done, total: seen.append((done, total)))
    assert seen == sorted(seen)
    assert seen[-1] == (1500, 1500)
    with EmbeddingsEngine(tiny, "cpu") as fresh:
        for at in range(0, 1500, 97):
            np.testing.assert_allclose(fresh.encode(texts[at]), rows[at], atol=1e-6)


def test_long_texts_are_the_mean_of_their_windows(engine: EmbeddingsEngine) -> None:
    """Weighted by tokens, normalised; nothing is left out."""
    text = "The sea is calm. " * 60
    windows = engine.encode_windows(text)
    weights = np.array(engine.count_tokens([text[s.start : s.end] for s in windows.spans]), np.float32) + 2
    mean = (windows.vectors * weights[:, None]).sum(axis=0)
    np.testing.assert_allclose(engine.encode(text), mean / np.linalg.norm(mean), atol=1e-5)
    assert "".join(text[s.start : s.end] for s in windows.spans) == text


def test_prefixes_count_towards_the_window(tmp_path: Path) -> None:
    """A model that wants prefixes gets them, and a window leaves room for its own."""
    checkpoint = write_checkpoint(tmp_path / "e5-small-v2")
    with EmbeddingsEngine(checkpoint, "cpu", cache_dir=tmp_path) as engine:
        np.testing.assert_allclose(engine.encode_query("sea"), engine.encode("query: sea"), atol=1e-6)
        np.testing.assert_allclose(engine.encode_document(["sea"]), engine.encode(["passage: sea"]), atol=1e-6)
        assert engine.window_tokens == 128 - 2 - engine.count_tokens(["passage: "])[0]
        text = "sea " * 300
        spans = engine.window_spans([text])[0]
        before = engine.steps
        engine.encode_document([text[span.start : span.end] for span in spans[1:-1]])
        assert engine.steps - before <= len(spans) - 2  # no window had to be cut again


def test_dimensions_cut_and_normalise(engine: EmbeddingsEngine) -> None:
    """The leading dimensions, scaled to length 1 unless that is not wanted; a model not trained for it is named."""
    with pytest.warns(UserWarning, match="Pca"):
        cut = engine.encode("sea", dimensions=8)
    whole = engine.encode("sea")[:8]
    np.testing.assert_allclose(cut, whole / np.linalg.norm(whole), atol=1e-6)
    with pytest.warns(UserWarning, match="not trained"):
        np.testing.assert_allclose(engine.encode("sea", dimensions=8, normalize=False), whole, atol=1e-6)
    with pytest.raises(ValueError, match="1 to 32"):
        engine.encode("sea", dimensions=33)


def test_a_text_seen_before_needs_no_device(engine: EmbeddingsEngine) -> None:
    """The second call is answered by the cache, and the hit rate shows it; questions and documents are kept apart."""
    first = engine.encode(["sea", "wind"])
    steps = engine.steps
    np.testing.assert_array_equal(engine.encode(["wind", "sea"]), first[::-1])
    assert engine.steps == steps
    assert engine.stats().cache[0].hit_rate == 0.5
    engine.encode_query("sea")
    assert engine.steps == steps + 1


def test_a_progress_that_fails_does_not_leave_work_behind(engine: EmbeddingsEngine) -> None:
    """The caller's own error comes back, what was queued ahead is dropped, and the engine goes on."""

    def fail(done: int, total: int) -> None:
        raise RuntimeError("the caller's own")

    with pytest.raises(RuntimeError, match="the caller's own"):
        engine.encode([f"text {n}" for n in range(800)], progress=fail)
    assert engine.encode("sea").shape == (HIDDEN,)


def test_many_threads_get_their_own_vectors(engine: EmbeddingsEngine, tiny: Path) -> None:
    """Eight threads at once, questions and lists mixed."""
    texts = [f"wind {n} sea" for n in range(64)]
    expected = dict(zip(texts, engine.encode(texts), strict=True))
    with EmbeddingsEngine(tiny, "cpu") as other, ThreadPoolExecutor(8) as pool:
        for text, row in zip(texts, pool.map(other.encode_query, texts), strict=True):
            np.testing.assert_allclose(row, expected[text], atol=1e-6)


def test_two_threads_compute_two_texts_side_by_side(engine: EmbeddingsEngine, tiny: Path) -> None:
    """Each device call waits for another one that runs beside it; the vectors are those of one thread."""
    texts = [f"wind {n} sea" for n in range(8)]
    together: threading.Barrier | None = None

    @contextmanager
    def beside() -> Iterator[None]:
        if together is not None:
            together.wait(30)
        yield

    with EmbeddingsEngine(tiny, "cpu", threads=2, guard=beside) as both:
        together = threading.Barrier(2)
        rows = both.encode(texts)
    np.testing.assert_allclose(rows, engine.encode(texts), atol=1e-6)


def test_a_call_already_cancelled_does_nothing(engine: EmbeddingsEngine) -> None:
    """The event may be set before the call; the device is not used."""
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(RuntimeError, match="asked for the work to end"):
        engine.encode(["never seen before"], cancel=cancel)
    assert engine.steps == 0


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": "no-such-model"}, ModelUnavailable, "not in a package"),
        ({"model": "/no/such/folder"}, ModelUnavailable, "no folder"),
        ({"device": "npu"}, BackendUnavailable, "no device"),
        ({"backend": "magic"}, BackendUnavailable, "no backend"),
        ({"device": "tpu:usb:0"}, ModelUnavailable, "edgetpu_compiler"),
        ({"model": "nothing.gguf"}, ModelUnavailable, "does not exist"),
    ],
)
def test_what_cannot_be_opened_says_why(
    tiny: Path, arguments: dict[str, str], error: type[Exception], said: str
) -> None:
    """Model, device and backend that are not there are named, with what to do."""
    with pytest.raises(error, match=said):
        EmbeddingsEngine(**({"model": tiny, "device": "cpu"} | arguments))  # type: ignore[arg-type]


def test_numbers_below_one_are_refused(engine: EmbeddingsEngine, tiny: Path) -> None:
    """Before anything is loaded or computed."""
    with pytest.raises(ValueError, match="threads is 0"):
        EmbeddingsEngine(tiny, "cpu", threads=0)
    for size in (0, -1):
        with pytest.raises(ValueError, match=f"batch_size is {size}"):
            engine.encode(["a text"], batch_size=size)


def test_only_text_is_taken(engine: EmbeddingsEngine) -> None:
    """A number in the list is named with its place."""
    with pytest.raises(TypeError, match=r"texts\[1\] is a int"):
        engine.encode(["a", 1])  # type: ignore[list-item]


def test_broken_characters_are_read_as_question_marks(engine: EmbeddingsEngine) -> None:
    """A lone surrogate, as a cut-off emoji leaves it, is no error."""
    np.testing.assert_allclose(engine.encode("sea \ud83d"), engine.encode("sea ?"), atol=1e-6)
    assert engine.count_tokens(["\ud83d"]) == [1]
    assert engine.window_spans(["\ud83d"])[0][0].end == 1
