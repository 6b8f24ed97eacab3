"""The data directory as `coral-reef up` owns it: one owner at a time, and what it writes about itself for `status`.

Layout: reef.db, broker/, chroma/, models/, logs/NAME.log, run/ (up.lock, up.json, flower.json, status.key).
Files with secrets have mode 0600.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from cli.errors import Problem
from workers import child_process
from workers.child_process import ProcessId
from workers.private_file import write_private
from workers.process_spec import ProcessState

T = TypeVar("T")
PARTS = ("run", "logs", "broker", "models", "chroma")


class RunFile(msgspec.Struct, frozen=True):
    """run/up.json: a running `up` and its processes."""

    pid: int
    start_ticks: int
    url: str
    started_at: float
    processes: tuple[ProcessState, ...] = ()

    @property
    def alive(self) -> bool:
        """Whether the `up` that wrote this still runs."""
        return child_process.is_alive(ProcessId(self.pid, self.start_ticks))


class FlowerLogin(msgspec.Struct, frozen=True):
    """run/flower.json: where Flower listens and how to get in."""

    url: str
    user: str
    password: str


class DataDirectory:
    """A data directory that this process wants to own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock: int | None = None

    @property
    def logs(self) -> Path:
        """One log file per process."""
        return self.path / "logs"

    @property
    def broker(self) -> Path:
        """Configuration and append-only file of the embedded broker."""
        return self.path / "broker"

    @property
    def chroma(self) -> Path:
        """Configuration and files of the embedded vector store."""
        return self.path / "chroma"

    @property
    def _run(self) -> Path:
        return self.path / "run"

    def acquire(self) -> list[int]:
        """Become the owner; end what a killed owner left. Returns the numbers of the processes that were ended.

        Raises Problem when another process owns the directory or when it cannot be written.
        """
        try:
            for part in PARTS:
                (self.path / part).mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = os.open(self._run / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            probe = self._run / "probe"
            write_private(probe, b"can be written")
            probe.unlink()
        except OSError as error:
            raise Problem(
                f"The data directory {self.path} cannot be written: {error.strerror} ({error.filename}).",
                "Make it writable for this user, or name another one: --data-dir DIR or REEF_DATA_DIR.",
            ) from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise self._owned_by_another() from None
        self._lock = lock
        return self._end_leftovers()

    def release(self) -> None:
        """Give the directory back; the run file goes, the logs stay."""
        if self._lock is None:
            return
        for name in ("up.json", "flower.json"):
            (self._run / name).unlink(missing_ok=True)
        os.close(self._lock)
        self._lock = None

    def write_run_file(self, url: str, started_at: float, processes: Sequence[ProcessState]) -> None:
        """Record the state of this `up`. A full disk is no reason to stop serving: then the file is old."""
        me = child_process.identify(os.getpid())
        record = RunFile(
            pid=os.getpid(),
            start_ticks=me.start_ticks if me else 0,
            url=url,
            started_at=started_at,
            processes=tuple(processes),
        )
        with contextlib.suppress(OSError):
            write_private(self._run / "up.json", msgspec.json.encode(record))

    def read_run_file(self) -> RunFile | None:
        """The record of the last `up`, alive or not; None when there is none."""
        return self._read("up.json", RunFile)

    def write_flower(self, login: FlowerLogin) -> None:
        """Keep Flower's password where only this user can read it."""
        write_private(self._run / "flower.json", msgspec.json.encode(login))

    def read_flower(self) -> FlowerLogin | None:
        """Where Flower is, None when it does not run or may not be read."""
        return self._read("flower.json", FlowerLogin)

    def write_status_key(self, key: str) -> None:
        """Keep the API key with which `status` asks a reef that asks for keys."""
        write_private(self._run / "status.key", key.encode())

    def read_status_key(self) -> str:
        """That key, or nothing."""
        try:
            return (self._run / "status.key").read_text(encoding="ascii").strip()
        except OSError:
            return ""

    def _read(self, name: str, kind: type[T]) -> T | None:
        try:
            return msgspec.json.decode((self._run / name).read_bytes(), type=kind)
        except (OSError, msgspec.DecodeError):
            return None

    def _end_leftovers(self) -> list[int]:
        record = self.read_run_file()
        if record is None:
            return []
        found = [ProcessId(p.pid, p.start_ticks) for p in record.processes if p.pid and p.start_ticks]
        return child_process.end_leftovers(found)

    def _owned_by_another(self) -> Problem:
        record = self.read_run_file()
        if record is None or not record.alive:
            return Problem(
                f"Another coral-reef up is starting or stopping in {self.path}.", "Wait a moment, then try again."
            )
        minutes = (time.time() - record.started_at) / 60
        return Problem(
            f"Coral Reef already runs in {self.path}: {record.url} (process {record.pid}, since {minutes:.0f} min).",
            f"Use it, stop it with Ctrl-C in its terminal or `kill {record.pid}`, "
            "or start a second one with --data-dir DIR --port PORT.",
        )
