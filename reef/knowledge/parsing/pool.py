"""A few parsing children for many threads. A file may kill the child that reads it, never the pool."""

from __future__ import annotations

import contextlib
import queue
import shutil
import threading
from collections.abc import Callable
from pathlib import Path

from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.limits import MIB, ParseLimits
from reef.knowledge.parsing.process import LISTEN_S, Child
from reef.knowledge.parsing.wire import Parsed, Refused
from reef.ports import Cancelled, ParseFailed

FILES_MAX = 500
"""Files a child reads before a fresh one takes its place: native parsers leak a little."""
RSS_GROWTH_MAX_BYTES = 384 * MIB


class ParserPool:
    """Thread-safe. Children are started when they are needed, or all at once by `start`."""

    def __init__(
        self,
        processes: int,
        limits: ParseLimits,
        scratch_dir: Path,
        *,
        files_max: int = FILES_MAX,
        rss_growth_max_bytes: int = RSS_GROWTH_MAX_BYTES,
        ocr_languages: str = "eng",
    ) -> None:
        """`scratch_dir` holds what children write; nothing in it is worth keeping."""
        self.limits = limits
        self._scratch_dir = scratch_dir
        self._files_max, self._rss_growth_max_bytes = files_max, rss_growth_max_bytes
        self._ocr_languages = ocr_languages
        self._steps = 0
        self._count = threading.Lock()
        self._closed = threading.Event()
        self._processes = processes
        self._seats: queue.LifoQueue[Child | None] = queue.LifoQueue()
        """A seat is a child that waits for work, or None where one is still to be started."""
        for _ in range(processes):
            self._seats.put(None)

    def start(self) -> None:
        """Start and warm every child. Raises ChildLost where that does not work on this machine.

        What children of an owner before left in the scratch directory goes first: they were killed with it.
        """
        _empty(self._scratch_dir)
        children: list[Child | None] = []
        try:
            for _ in range(self._processes):
                child = self._seats.get() or Child(self.limits, self._scratch_dir, self._ocr_languages)
                children.append(child)
            for started in children:
                if started is not None and not started.rss_bytes:
                    started.await_ready(self._closed.is_set)
        finally:
            for seat in children:
                self._seats.put(seat)

    def parse(self, path: Path, name: str, cancel: threading.Event) -> ParsedDocument:
        """Read one file, waiting for a free child first. Raises ParseFailed; Cancelled within half a second."""

        def ended() -> bool:
            self._count_step()
            return cancel.is_set() or self._closed.is_set()

        child = self._take(ended)
        try:
            if child is None or not child.alive():
                child = self._fresh(child, ended)
            answer = child.read(path, name, ended)
        finally:
            self._give_back(child)
            self._count_step()
        if isinstance(answer, Parsed):
            return answer.document
        if isinstance(answer, Refused):
            raise ParseFailed(answer.code, answer.message)
        raise ParseFailed("internal", f"{name}: the parsing process answered something else.")

    def steps(self) -> int:
        """Moves while files are read: a slow file is progress as long as it is watched, and it is ended in time."""
        return self._steps

    def _count_step(self) -> None:
        with self._count:
            self._steps += 1

    def pids(self) -> list[int]:
        """Of the children that wait for work now."""
        with self._seats.mutex:
            return [child.pid for child in self._seats.queue if child is not None]

    def close(self) -> None:
        """End every child; files in flight end as cancelled. Idempotent."""
        self._closed.set()
        with contextlib.suppress(queue.Empty):
            while True:
                child = self._seats.get_nowait()
                if child is not None:
                    child.close()

    def _take(self, ended: Callable[[], bool]) -> Child | None:
        while not ended():
            with contextlib.suppress(queue.Empty):
                return self._seats.get(timeout=LISTEN_S)
        raise Cancelled

    def _fresh(self, dead: Child | None, ended: Callable[[], bool]) -> Child:
        if dead is not None:
            dead.close()
        self._scratch_dir.mkdir(parents=True, exist_ok=True)
        child = Child(self.limits, self._scratch_dir, self._ocr_languages)
        try:
            child.await_ready(ended)
        except BaseException:
            child.close()
            raise
        return child

    def _give_back(self, child: Child | None) -> None:
        worn = child is not None and (
            child.files >= self._files_max or child.rss_bytes - child.rss_start_bytes > self._rss_growth_max_bytes
        )
        if child is not None and (worn or self._closed.is_set() or not child.alive()):
            child.close()
            child = None
        self._seats.put(child)


def _empty(directory: Path) -> None:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True, exist_ok=True)
