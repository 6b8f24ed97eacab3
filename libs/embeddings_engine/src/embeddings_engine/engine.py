"""The engine: texts in, float32 vectors out. Joins tokens, cache, lane and backend; computes nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from embeddings_engine.backends.base import Backend, Usage, normalised
from embeddings_engine.backends.calling import Service
from embeddings_engine.backends.select import Choice, open_backend
from embeddings_engine.cache import MemoryTier, TierStats, VectorCache, cache_key
from embeddings_engine.errors import Cancelled
from embeddings_engine.lane import Guard, Lane, Work
from embeddings_engine.models import Progress, silent
from embeddings_engine.reduction import similarity, truncate
from embeddings_engine.tokens import Item, Span

Vectors = NDArray[np.float32]
Priority = Literal["interactive", "bulk"]
Report = Callable[[int, int], None]
"""Called in the caller's thread with texts done and texts in all."""

FIRST_SLAB, SLAB = 64, 512
"""Texts tokenised at a time: the next slab while the device works on this one. A small first one starts it soon."""
SLABS_AHEAD = 2
ASYNC_CALLS_MAX = 32
"""Async calls that wait for vectors at once; more queue up."""


@dataclass(frozen=True)
class Windows:
    """A text in pieces that the model reads whole. `vectors[i]` belongs to `text[spans[i].start : spans[i].end]`."""

    spans: list[Span]
    vectors: Vectors


@dataclass(frozen=True)
class Stats:
    """What an engine did so far."""

    texts: int
    steps: int
    """Device calls."""
    waiting_interactive: int
    waiting_bulk: int
    cache: list[TierStats]
    usage: Usage


@dataclass(frozen=True)
class _Call:
    """What is the same for all texts of one call."""

    prefix: str
    query: bool
    interactive: bool
    batch_size: int | None
    cancel: threading.Event


@dataclass
class _Slab:
    """Some texts of a call on their way."""

    texts: list[str]
    known: dict[str, Vectors]
    missing: list[str]
    owners: list[int]
    """For each item of the work, the index in `missing` of the text it is a window of."""
    work: Work


class EmbeddingsEngine:
    """One model on one device. Thread-safe: callers that come together are batched together.

    `model` is a name of the catalogue, a folder (checkpoint or bundle), a .gguf file, or a service's model.
    """

    def __init__(  # noqa: PLR0913  (the one place where everything is said; all but the model have defaults)
        self,
        model: str | Path = "all-MiniLM-L6-v2",
        device: str = "auto",
        *,
        backend: str | Backend | None = None,
        threads: int = 1,
        cache_dir: Path | None = None,
        cache: VectorCache | None = None,
        service: Service | None = None,
        guard: Guard = contextlib.nullcontext,
        before_bulk: Callable[[], None] | None = None,
        delegate_library: str = "",
        progress: Progress = silent,
    ) -> None:
        """Fetch, build, load and self-test the model. Raises EmbeddingsError; the subclass says what helps.

        `before_bulk` is called before each bulk call, in the thread that makes it: where a program lowers that
        thread's priority, or lets it wait while the processor is wanted elsewhere. `delegate_library` is the file
        that opens an Edge TPU; empty: Google's, as it is installed. Raises ValueError for less than one thread.
        """
        if threads < 1:
            raise ValueError(f"threads is {threads}; a model needs at least one.")
        if backend is None or isinstance(backend, str):
            choice = Choice(
                model=model,
                device=device,
                backend=backend,
                threads=threads,
                cache_dir=cache_dir,
                service=service,
                delegate_library=delegate_library,
                progress=progress,
            )
            with guard():
                self._backend = open_backend(choice)
        else:
            self._backend = backend
        self.traits = self._backend.traits
        self._cache = cache if cache is not None else VectorCache(MemoryTier())
        self._lane = Lane(
            lambda items, query: self._backend.run(items, query=query),
            batch_max=self.traits.batch_max,
            batch_tokens_max=self.traits.batch_tokens_max,
            threads=self.traits.calls_at_once,
            urgent_threads=self.traits.urgent_calls,
            guard=guard,
            before_bulk=before_bulk,
        )
        self._prefix_tokens = {p: self._backend.count([p])[0] if p else 0 for p in self._prefixes()}
        self._special_tokens = self._backend.prepare([""])[0].tokens
        self._texts = 0
        self._count_lock = threading.Lock()
        self._callers: ThreadPoolExecutor | None = None
        progress(1.0, f"{self.traits.model} is ready on {self.traits.device}")

    @property
    def dimensions(self) -> int:
        """Length of a vector."""
        return self.traits.dimensions

    @property
    def window_tokens(self) -> int:
        """Longest document in tokens, special ones and prefix not counted, that is embedded whole."""
        return self._budget(self.traits.document_prefix)

    @property
    def steps(self) -> int:
        """Device calls finished so far: grows as long as the device lives."""
        return self._lane.steps

    def encode(
        self,
        texts: str | Sequence[str],
        *,
        batch_size: int | None = None,
        normalize: bool = True,
        dimensions: int | None = None,
        progress: Report | None = None,
        cancel: threading.Event | None = None,
        priority: Priority | None = None,
        kind: Literal["plain", "query", "document"] = "plain",
    ) -> Vectors:
        """Vectors as float32: `(n, d)` for a list, `(d,)` for one text.

        A text longer than the window is embedded in windows; its vector is their mean, weighted by tokens and
        normalised. One text alone is interactive and overtakes lists, unless `priority` says otherwise.
        Raises Cancelled between two device calls once `cancel` is set, BackendFailed, Closed; ValueError for a
        `batch_size` below 1.
        """
        if batch_size is not None and batch_size < 1:
            raise ValueError(f"batch_size is {batch_size}; a call takes at least one text.")
        alone = isinstance(texts, str)
        listed = _readable([texts] if isinstance(texts, str) else texts)
        self._check_dimensions(dimensions)
        call = _Call(
            prefix={"query": self.traits.query_prefix, "document": self.traits.document_prefix}.get(kind, ""),
            query=kind == "query",
            interactive=priority == "interactive" or (priority is None and (alone or kind == "query")),
            batch_size=batch_size,
            cancel=cancel or threading.Event(),
        )
        vectors = self._encode(listed, call, progress)
        if dimensions is not None:
            vectors = truncate(vectors, dimensions, normalize=normalize)
        with self._count_lock:
            self._texts += len(listed)
        return np.asarray(vectors[0]) if alone else vectors

    def encode_query(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """As `encode`, with the model's prefix for questions, before any bulk work that waits."""
        return self.encode(texts, kind="query", **options)

    def encode_document(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """As `encode`, with the model's prefix for documents."""
        return self.encode(texts, kind="document", **options)

    async def aencode(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """`encode` for async callers. Cancelling the task ends the work between two device calls."""
        cancel = options.setdefault("cancel", threading.Event())
        with self._count_lock:
            if self._callers is None:
                self._callers = ThreadPoolExecutor(ASYNC_CALLS_MAX, thread_name_prefix="embeddings-caller")
        try:
            return await asyncio.get_running_loop().run_in_executor(
                self._callers, lambda: self.encode(texts, **options)
            )
        except asyncio.CancelledError:
            cancel.set()
            raise

    async def aencode_query(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """`encode_query` for async callers."""
        return await self.aencode(texts, kind="query", **options)

    async def aencode_document(self, texts: str | Sequence[str], **options: Any) -> Vectors:
        """`encode_document` for async callers."""
        return await self.aencode(texts, kind="document", **options)

    def encode_windows(self, text: str, **options: Any) -> Windows:
        """A long text in windows, each with its own vector and its place in the text."""
        spans = self.window_spans([text])[0]
        return Windows(spans, self.encode_document([text[span.start : span.end] for span in spans], **options))

    def window_spans(self, texts: Sequence[str]) -> list[list[Span]]:
        """For each text, spans that `encode_document` embeds whole and that together cover it."""
        return [self._backend.windows(text, self.window_tokens) for text in _readable(texts)]

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in the model's tokens, without special ones."""
        return self._backend.count(_readable(texts))

    def similarity(self, left: Vectors, right: Vectors) -> NDArray[np.float32] | float:
        """Cosine similarity of two vectors, or of every pair of two lists."""
        return similarity(left, right)

    def stats(self) -> Stats:
        """Counters since the engine was made."""
        interactive, bulk = self._lane.waiting()
        return Stats(self._texts, self.steps, interactive, bulk, self._cache.stats(), self._backend.usage())

    def close(self) -> None:
        """Free the device; calls that wait end as Closed. The cache belongs to the engine and is closed too."""
        self._lane.close()
        if self._callers is not None:
            self._callers.shutdown(wait=False)
        self._backend.close()
        self._cache.close()

    def __enter__(self) -> EmbeddingsEngine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _check_dimensions(self, dimensions: int | None) -> None:
        if dimensions is None:
            return
        if not 1 <= dimensions <= self.dimensions:
            raise ValueError(f"dimensions is {dimensions}; {self.traits.model} gives 1 to {self.dimensions}.")
        if not self.traits.matryoshka and dimensions < self.dimensions:
            warnings.warn(
                f"{self.traits.model} was not trained to be cut to {dimensions} dimensions; Pca loses less.",
                stacklevel=3,
            )

    def _encode(self, texts: list[str], call: _Call, progress: Report | None) -> Vectors:
        out = np.empty((len(texts), self.dimensions), np.float32)
        ahead: deque[_Slab] = deque()
        bounds = deque(_slab_bounds(len(texts)))
        done = 0
        try:
            while bounds or ahead:
                while bounds and len(ahead) < SLABS_AHEAD:
                    first, last = bounds.popleft()
                    ahead.append(self._begin(texts[first:last], call))
                slab = ahead[0]
                report = None if progress is None else _Report(progress, done, len(texts), slab)
                out[done : done + len(slab.texts)] = self._finish(slab, call, report)
                done += len(slab.texts)
                ahead.popleft()
        except BaseException:
            for slab in ahead:  # what was queued ahead must not reach the device any more
                slab.work.fail(Cancelled("the call it belongs to ended early."))
            raise
        return out

    def _begin(self, texts: list[str], call: _Call) -> _Slab:
        """Look the texts up, tokenise what is missing and queue it."""
        unique = list(dict.fromkeys(texts))
        keys = {text: self._key(call, text) for text in unique}
        cached = self._cache.get_many(list(keys.values()))
        known = {text: cached[key] for text, key in keys.items() if key in cached}
        missing = [text for text in unique if text not in known]
        items, owners = self._items(missing, call.prefix)
        work = Work(
            items,
            self.dimensions,
            query=call.query,
            interactive=call.interactive,
            batch_max=call.batch_size,
            cancel=call.cancel,
        )
        if items:
            self._lane.submit(work)
        return _Slab(texts, known, missing, owners, work)

    def _finish(self, slab: _Slab, call: _Call, report: _Report | None) -> Vectors:
        vectors = slab.work.wait(report)
        sums = np.zeros((len(slab.missing), self.dimensions), np.float32)
        weights = np.array([max(item.tokens, 1) for item in slab.work.items], np.float32)
        if len(slab.owners) == len(slab.missing):
            sums = vectors
        else:
            np.add.at(sums, slab.owners, vectors * weights[:, None])
            sums = normalised(sums)
        fresh = dict(zip(slab.missing, sums, strict=True))
        self._cache.set_many({self._key(call, text): vector for text, vector in fresh.items()})
        known = slab.known | fresh
        return np.stack([known[text] for text in slab.texts])

    def _items(self, texts: Sequence[str], prefix: str) -> tuple[list[Item], list[int]]:
        """Texts as the backend takes them; one that is too long becomes several."""
        items: list[Item] = []
        owners: list[int] = []
        for index, item in enumerate(self._backend.prepare([prefix + text for text in texts])):
            if item.tokens <= self.traits.window_tokens:
                items.append(item)
                owners.append(index)
                continue
            text = texts[index]
            spans = self._backend.windows(text, self._budget(prefix))
            parts = self._backend.prepare([prefix + text[span.start : span.end] for span in spans])
            items.extend(parts)
            owners.extend([index] * len(parts))
        return items, owners

    def _budget(self, prefix: str) -> int:
        return self.traits.window_tokens - self._special_tokens - self._prefix_tokens[prefix]

    def _prefixes(self) -> set[str]:
        return {"", self.traits.query_prefix, self.traits.document_prefix}

    def _key(self, call: _Call, text: str) -> bytes:
        prefix = f"query:{call.prefix}" if call.query else call.prefix
        return cache_key(self.traits.fingerprint, prefix, text)


class _Report:
    """Turns items done of one slab into texts done of the call."""

    def __init__(self, progress: Report, before: int, total: int, slab: _Slab) -> None:
        self._progress, self._before, self._total, self._slab = progress, before, total, slab

    def __call__(self, items_done: int) -> None:
        share = items_done / max(len(self._slab.work.items), 1)
        self._progress(self._before + int(share * len(self._slab.texts)), self._total)


def _readable(texts: Iterable[object]) -> list[str]:
    """The texts, with `?` for what no tokenizer and no service can read: halves of characters."""
    found = []
    for at, text in enumerate(texts):
        if not isinstance(text, str):
            raise TypeError(f"texts[{at}] is a {type(text).__name__}; encode takes text.")
        try:
            text.encode()
            found.append(text)
        except UnicodeEncodeError:
            found.append(text.encode("utf-8", "replace").decode())
    return found


def _slab_bounds(count: int) -> list[tuple[int, int]]:
    bounds = [(0, min(FIRST_SLAB, count))] if count else []
    bounds += [(first, min(first + SLAB, count)) for first in range(FIRST_SLAB, count, SLAB)]
    return bounds
