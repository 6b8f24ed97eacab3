"""The product under measurement: started as `coral-reef up` starts it, on its own data, looked at from outside."""

from __future__ import annotations

import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec
import psutil
import redis

from bench.machine import ROOT
from cli.launch import ReefProcesses
from reef import keys
from reef.contracts.nodes import NodeReport, decode_report
from reef.models import ModelFile, ModelStore
from reef.settings import Settings
from workers.broker import free_port

DATA = ROOT / "data" / "bench"
MODEL = "smollm2-135m-instruct"
READY_MAX_S = 300.0


def queues(
    *,
    devices: str = "[cpu]",
    engine: str = "openvino",
    model: str = MODEL,
    streams: int = 8,
    affinity: bool = True,
    waiting_max: int = 256,
) -> str:
    """A queues.yaml with a chat pool only, its limits as shipped."""
    return (
        "version: 1\npools:\n"
        f"  chat: {{queue: chat, devices: {devices}, engine: {engine}, model: {model!r}, streams: {streams}, "
        f"context_tokens: 4096, affinity: {str(affinity).lower()}, "
        f"limits: {{waiting_max: {waiting_max}, deadline_s: 600, attempts_max: 3, tokens_max: 1024}}}}\n"
    )


def the_model() -> ModelFile:
    """The default model, fetched where it is not here yet."""
    theirs, ours = ROOT / "data" / "models" / f"{MODEL}.gguf", DATA / "models" / f"{MODEL}.gguf"
    if theirs.is_file() and not ours.is_file():
        ours.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(theirs, ours)
    return ModelStore(DATA).pull(MODEL, lambda share, note: None)


class Usage(msgspec.Struct, frozen=True):
    """What a part of the product has used so far, its children included."""

    rss_bytes: int
    cpu_s: float


class Product:
    """The running product."""

    def __init__(self, processes: ReefProcesses) -> None:
        self.processes = processes
        self.url = processes.url
        self.broker = redis.Redis.from_url(processes.settings.redis_url)

    def pids(self) -> dict[str, int]:
        """Numbers of its processes by name; workers by their node."""
        return self.processes.pids()

    def usage(self) -> dict[str, Usage]:
        """Memory and processor time of every part. The web process is the one that serves, not its parent."""
        found = {}
        for name, pid in self.pids().items():
            with suppress(psutil.NoSuchProcess):
                parent = psutil.Process(pid)
                children = parent.children(recursive=True)
                # gunicorn's parent does nothing but wait
                serving = children if name == "web" and children else [parent, *children]
                found[name] = Usage(
                    sum(one.memory_info().rss for one in serving),
                    sum(times.user + times.system for times in (one.cpu_times() for one in serving)),
                )
        return found

    def report(self, node: str) -> NodeReport | None:
        """What a worker says about itself now."""
        raw = self.broker.hget(keys.NODES, node)
        return decode_report(raw) if isinstance(raw, bytes) else None

    def wait_quiet(self, timeout_s: float = 10.0) -> None:
        """Wait until no part of the product uses the processor for more than a breath."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            before = sum(usage.cpu_s for usage in self.usage().values())
            time.sleep(0.3)
            if sum(usage.cpu_s for usage in self.usage().values()) - before < 0.03:
                return


@contextmanager
def alone() -> Iterator[None]:
    """Keep a second bench from throwing away the data of the first. Raises BlockingIOError while one runs."""
    DATA.mkdir(parents=True, exist_ok=True)
    with (DATA / "bench.lock").open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield


@contextmanager
def running(queues_yaml: str, **fields: object) -> Iterator[Product]:
    """The product with these pools, an empty database, and the models and prepared files of earlier benches."""
    settings = fresh_settings(queues_yaml).changed(**fields)
    processes = ReefProcesses(settings, flower=False)
    try:
        processes.start()
        processes.wait_ready(READY_MAX_S)
        product = Product(processes)
        product.wait_quiet()
        yield product
        product.broker.close()
    finally:
        processes.stop(timeout_s=5)


def fresh_settings(queues_yaml: str) -> Settings:
    """Settings on the bench's data, whose database and broker files are thrown away."""
    DATA.mkdir(parents=True, exist_ok=True)
    for old in DATA.glob("reef.db*"):
        old.unlink()
    shutil.rmtree(DATA / "broker", ignore_errors=True)
    shutil.rmtree(DATA / "logs", ignore_errors=True)
    for old in (DATA / "run").glob("place-*"):
        old.unlink()
    file = DATA / "queues.yaml"
    file.write_text(queues_yaml, encoding="utf-8")
    return Settings(data_dir=DATA, port=free_port(), queues_file=file)


def spent(before: dict[str, Usage], after: dict[str, Usage]) -> dict[str, float]:
    """Seconds of processor time that each part has used between two looks."""
    return {name: after[name].cpu_s - before[name].cpu_s for name in after if name in before}


def cores() -> int:
    """Cores this process may use, as a worker for `cpu` counts them."""
    return len(os.sched_getaffinity(0))


def log_of(name: str) -> Path:
    """Where a process of the product writes."""
    return DATA / "logs" / f"{name}.log"
