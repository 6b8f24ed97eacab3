"""Simulated devices of the embed and index pools, for tests and capacity runs. Never chosen by themselves.

The embedding engine hashes words into vectors: texts that share words are near each other, and nothing is learned.
The parser reads plain text. Both obey commands that stand in a text, so that faults can be tried on a running product:

    !crash       the process is killed at once
    !fail        the device reports an error, which is worth another try
    !bad         (parser) the file is refused for good

The model's name sets the pace: `simulated`, or `simulated:text_ms=20` (a text or a file).
"""

from __future__ import annotations

import hashlib
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from reef.knowledge.model import Block, Chunk, Page, PageStart, ParsedDocument
from reef.ports import Cancelled, EngineError, ParseFailed, Progress

DIMENSIONS = 128
WINDOW_TOKENS = 64
CHUNK_WORDS = 120
LABEL = "read by a simulated device"
_WORD = re.compile(r"\w+")


class _Pace:
    """How long a text takes, and the counter that shows progress."""

    def __init__(self, model: str) -> None:
        """Raises EngineError where the model's name does not say a pace this device understands."""
        name, _, value = model.partition(":")[2].partition("=")
        if model.partition(":")[2] and (name != "text_ms" or not value.isdigit()):
            raise EngineError(f"model {model!r}: this simulated device understands text_ms=N, in milliseconds.")
        self._text_s = int(value or 0) / 1000
        self.steps = 0

    def work(self, texts: int, cancel: threading.Event) -> None:
        """Take the time of so many texts. Raises Cancelled."""
        if cancel.wait(self._text_s * texts) if self._text_s else cancel.is_set():
            raise Cancelled
        self.steps += 1


def _obey(text: str) -> None:
    if "!crash" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    if "!fail" in text:
        raise EngineError("The simulated device failed, as it was told to.")


class SimulatedEmbedding:
    """reef.ports.EmbeddingEngine without a model."""

    name = "simulated"
    dimensions = DIMENSIONS
    window_tokens = WINDOW_TOKENS

    def __init__(self, model: str) -> None:
        """Raises EngineError for a pace that means nothing."""
        self.model = model
        self._pace = _Pace(model)
        self._device = threading.Condition()
        self._busy = False
        self._questions = 0

    def load(self, progress: Progress) -> None:
        """There is nothing to load."""
        progress(1.0, "simulated device: nothing to load")

    def embed_query(self, text: str) -> NDArray[np.float32]:
        """See reef.ports.EmbeddingEngine."""
        with self._turn(question=True):
            self._pace.work(1, threading.Event())
            return _vector(text)

    def embed_documents(self, texts: Sequence[str], cancel: threading.Event) -> NDArray[np.float32]:
        """See reef.ports.EmbeddingEngine."""
        for text in texts:
            _obey(text)
        with self._turn(question=False):
            self._pace.work(len(texts), cancel)
            return np.stack([_vector(text) for text in texts])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """A token a word."""
        return [len(_WORD.findall(text)) for text in texts]

    def steps(self) -> int:
        """Calls so far."""
        return self._pace.steps

    def close(self) -> None:
        """There is nothing to free."""

    @contextmanager
    def _turn(self, *, question: bool) -> Iterator[None]:
        """One call at a time; a question comes before documents that wait."""
        with self._device:
            self._questions += question
            self._device.wait_for(lambda: not self._busy and (question or not self._questions))
            self._questions -= question
            self._busy = True
        try:
            yield
        finally:
            with self._device:
                self._busy = False
                self._device.notify_all()


def _vector(text: str) -> NDArray[np.float32]:
    vector = np.zeros(DIMENSIONS, dtype=np.float32)
    for word in _WORD.findall(text.lower()) or ["\0"]:
        digest = hashlib.blake2b(word.encode(), digest_size=4).digest()
        vector[int.from_bytes(digest[:2], "little") % DIMENSIONS] += 1.0 if digest[2] & 1 else -1.0
    norm = float(np.linalg.norm(vector))
    if norm == 0.0:
        vector[0] = norm = 1.0
    return vector / np.float32(norm)


class SimulatedParser:
    """reef.ports.ParsingEngine for plain text."""

    name = "simulated"

    def __init__(self, model: str) -> None:
        """Raises EngineError for a pace that means nothing."""
        self.model = model
        self._pace = _Pace(model)

    def load(self, progress: Progress) -> None:
        """There is nothing to load."""
        progress(1.0, "simulated device: nothing to load")

    def parse(self, path: Path, name: str, cancel: threading.Event) -> ParsedDocument:
        """See reef.ports.ParsingEngine. A form feed ends a page."""
        self._pace.work(1, cancel)
        try:
            text = path.read_bytes().decode()
        except UnicodeDecodeError:
            raise ParseFailed("unsupported", "The simulated device reads UTF-8 text only.") from None
        _obey(text)
        if "!bad" in text:
            raise ParseFailed("corrupt", "The simulated device was told to refuse this file.")
        if not text.strip():
            raise ParseFailed("empty" if not text else "no_text", "There is no text in this file.")
        return ParsedDocument(
            text=text,
            pages=tuple(_pages(text)),
            blocks=(Block("text", 0, len(text)),),
            title=Path(name).stem,
            language="en",
            mime_type="text/plain",
            encoding="utf-8",
            warnings=(LABEL,),
        )

    def cut(self, document: ParsedDocument) -> list[Chunk]:
        """See reef.ports.ParsingEngine. So many words a passage."""
        words = list(_WORD.finditer(document.text))
        found = []
        for number, first in enumerate(range(0, len(words), CHUNK_WORDS)):
            part = words[first : first + CHUNK_WORDS]
            start, end = part[0].start() if first else 0, part[-1].end()
            pages = [page.number for page in document.pages if page.start < end and page.end > start]
            found.append(
                Chunk(
                    number=number,
                    text=document.text[start:end],
                    start=start,
                    end=end,
                    tokens=len(part),
                    page_first=min(pages, default=None),
                    page_last=max(pages, default=None),
                    page_starts=tuple(
                        PageStart(page.number, page.start - start)
                        for page in document.pages
                        if start < page.start < end
                    ),
                    windows=tuple(
                        (part[n].start() - start if n else 0, part[min(n + WINDOW_TOKENS, len(part)) - 1].end() - start)
                        for n in range(0, len(part), WINDOW_TOKENS)
                    ),
                )
            )
        return found

    def steps(self) -> int:
        """Files so far."""
        return self._pace.steps

    def close(self) -> None:
        """There is nothing to free."""


def _pages(text: str) -> Iterator[Page]:
    start = 0
    for number, page in enumerate(text.split("\f"), start=1):
        yield Page(number, start, start + len(page))
        start += len(page) + 1
