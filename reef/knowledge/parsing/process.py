"""One parsing child as its owner sees it: started, asked, waited for, ended. Chooses no file and keeps no queue."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from reef.knowledge.parsing.child import OUT_OF_MEMORY
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.wire import (
    FRAME_BYTES_MAX,
    LENGTH,
    Answer,
    Order,
    Ready,
    Request,
    Setup,
    decode_answer,
    frame,
)
from reef.ports import Cancelled, ParseFailed
from reef.settings import inherited_environment

START_TIMEOUT_S = 60.0
LISTEN_S = 0.1
"""How often a waiting parse looks whether it was cancelled."""
READ_BYTES = 1024 * 1024
COMPLAINT_BYTES = 4096
ROOT = Path(__file__).resolve().parents[3]
# what a child may know of our environment: no keys, no addresses, no passwords
_PASSED_ON = ("PATH", "LANG", "LC_ALL", "TESSDATA_PREFIX", "LD_LIBRARY_PATH", "TMPDIR")
_NO_MEMORY = (b"memory allocation of", b"MemoryError", b"bad_alloc", b"Cannot allocate memory", b"out of memory")


class ChildLost(Exception):
    """The child did not come up, or broke off."""


class Child:
    """A child process. Used by one thread at a time."""

    def __init__(self, limits: ParseLimits, scratch_dir: Path, ocr_languages: str) -> None:
        """Start it; `await_ready` waits until it can be asked."""
        self.files = 0
        self.rss_bytes = 0
        self.rss_start_bytes = 0
        self._limits = limits
        self._complaints = tempfile.TemporaryFile(dir=scratch_dir)  # noqa: SIM115  closed with the child
        ours = inherited_environment()
        environment = {name: ours[name] for name in _PASSED_ON if name in ours}
        environment |= {"PYTHONPATH": str(ROOT), "TMPDIR": str(scratch_dir), "TOKIO_WORKER_THREADS": "1"}
        self._process = subprocess.Popen(
            # -P: what lies in the scratch directory is never imported
            [sys.executable, "-P", "-m", "reef.knowledge.parsing.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._complaints,
            env=environment,
            cwd=scratch_dir,
            start_new_session=True,
            bufsize=0,
        )
        assert self._process.stdin is not None  # noqa: S101  both were asked for
        assert self._process.stdout is not None  # noqa: S101
        self._orders, self._answers = self._process.stdin, self._process.stdout
        os.set_blocking(self._answers.fileno(), False)
        self._send(Setup(limits, ocr_languages))

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def alive(self) -> bool:
        """Whether the process is there."""
        return self._process.poll() is None

    def await_ready(self, ended: Callable[[], bool]) -> None:
        """Wait until its libraries are loaded. Raises ChildLost with what it said last; Cancelled."""
        try:
            answer = self._receive(time.monotonic() + START_TIMEOUT_S, ended)
        except (TimeoutError, EOFError):
            said = self._last_words().decode("utf-8", "replace").strip()[-500:]
            raise ChildLost(f"A parsing process did not start: {said or 'it said nothing'}") from None
        if not isinstance(answer, Ready):
            raise ChildLost("A parsing process began with something else than its greeting.")
        self.rss_bytes = self.rss_start_bytes = answer.rss_bytes

    def read(self, path: Path, name: str, ended: Callable[[], bool]) -> Answer:
        """Ask for one file. Raises Cancelled once `ended` says so, or ParseFailed when the child died of it."""
        self.files += 1
        try:
            self._send(Request(str(path), name))
            answer = self._receive(time.monotonic() + self._limits.time_s, ended)
        except TimeoutError:
            self.close()
            raise _too_slow(self._limits) from None
        except (EOFError, BrokenPipeError):
            raise self._cause_of_death() from None
        except Cancelled:
            self.close()
            raise
        self.rss_bytes = answer.rss_bytes
        return answer

    def close(self) -> None:
        """End it and whatever it started, at once. Idempotent."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        self._orders.close()
        self._answers.close()
        self._complaints.close()

    def _send(self, order: Order) -> None:
        # far smaller than a pipe's buffer, and the child listens whenever it is asked
        with contextlib.suppress(BrokenPipeError):
            self._orders.write(frame(order))

    def _receive(self, deadline: float, ended: Callable[[], bool]) -> Answer:
        poll = select.poll()
        poll.register(self._answers.fileno(), select.POLLIN)
        heard = bytearray()
        wanted = LENGTH.size
        while len(heard) < wanted:
            if ended():
                raise Cancelled
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            if not poll.poll(min(LISTEN_S, left_s) * 1000):
                continue
            piece = os.read(self._answers.fileno(), READ_BYTES)
            if not piece:
                raise EOFError
            heard += piece
            if wanted == LENGTH.size and len(heard) >= LENGTH.size:
                wanted += LENGTH.unpack_from(heard)[0]
                if wanted > FRAME_BYTES_MAX:
                    raise EOFError
        return decode_answer(memoryview(heard)[LENGTH.size :])

    def _cause_of_death(self) -> ParseFailed:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(timeout=1.0)
        status = self._process.returncode
        said = self._last_words()
        self.close()
        if status == -signal.SIGXCPU:
            return _too_slow(self._limits)
        if status in {OUT_OF_MEMORY, -signal.SIGKILL} or any(word in said for word in _NO_MEMORY):
            return ParseFailed(
                "memory",
                f"Reading the file takes more than {self._limits.memory_bytes_max / 1e6:,.0f} MB of memory. Split it.",
            )
        return ParseFailed(
            "corrupt", f"The reader broke down on the file (status {status}); it is damaged or made to do so."
        )

    def _last_words(self) -> bytes:
        size = self._complaints.seek(0, os.SEEK_END)
        self._complaints.seek(max(0, size - COMPLAINT_BYTES))
        return self._complaints.read(COMPLAINT_BYTES)


def _too_slow(limits: ParseLimits) -> ParseFailed:
    return ParseFailed("too_slow", f"Reading the file took longer than {limits.time_s:.0f} s. Split it.")
