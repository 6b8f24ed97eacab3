"""One operating-system process: how it is started, recognised, measured and ended. Never a decision to restart it.

A child leads a process group of its own, so a Ctrl-C in the terminal reaches only the supervisor and a kill reaches
the child's own children. The kernel kills it when its parent dies (PR_SET_PDEATHSIG): nobody is left behind by a
`kill -9`. A pid alone names nobody, since numbers are reused; pid and start time together do.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

LEFTOVER_WAIT_S = 5.0

# Runs in the child before the real program: Popen's preexec_fn is unsafe in a process with threads. The signal of
# PR_SET_PDEATHSIG survives exec; the parent is asked for again because it may have died before the prctl call.
_BIND_TO_PARENT = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
if os.getppid() != int(sys.argv[1]):
    sys.exit("the process that started this one is gone")
os.execvp(sys.argv[2], sys.argv[2:])
"""


class ProcessId(msgspec.Struct, frozen=True):
    """A process that can be recognised later: the number and when the kernel started it."""

    pid: int
    start_ticks: int


def spawn(argv: Sequence[str], environment: Mapping[str, str], directory: Path) -> subprocess.Popen[bytes]:
    """Start a program whose output arrives on `.stdout`, bound to the calling THREAD's life.

    The kernel watches the thread that forks, so the caller must live as long as the child is wanted.
    """
    launcher = [sys.executable, "-I", "-S", "-c", _BIND_TO_PARENT, str(os.getpid())]
    return subprocess.Popen(
        [*launcher, *argv],
        env=dict(environment),
        cwd=directory,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        bufsize=0,
    )


def identify(pid: int) -> ProcessId | None:
    """The identity of a running process, None when there is none with this number."""
    fields = _stat(pid)
    if fields is None or fields[0] == "Z":
        return None
    return ProcessId(pid=pid, start_ticks=int(fields[19]))


def is_alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs."""
    return identify(process.pid) == process


def wait_for_exit(pid: int) -> None:
    """Block until a child has ended, and leave it for `reap`: its number, and so its group's, stays reserved."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)


def kill_group(pid: int) -> None:
    """Kill a process and everything that it started."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def end_leftovers(processes: Iterable[ProcessId]) -> list[int]:
    """Kill what is still running of an earlier start. Returns the numbers of the groups that were.

    Where the leader is gone its group may still live; its number is then taken by nobody else.
    """
    candidates = {process.pid for process in processes if identify(process.pid) in (process, None)}
    found = _living_groups(candidates)
    for pid in found:
        kill_group(pid)
    deadline = time.monotonic() + LEFTOVER_WAIT_S
    while _living_groups(found) and time.monotonic() < deadline:
        time.sleep(0.02)
    return sorted(found)


def group_memory_bytes(leaders: Iterable[int]) -> dict[int, int]:
    """Resident memory of each process group, children included, by the number of its leader."""
    totals = dict.fromkeys(leaders, 0)
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    for fields in map(_stat, _all_pids()):
        if fields is not None and int(fields[2]) in totals:
            totals[int(fields[2])] += int(fields[21]) * page_bytes
    return totals


def describe_exit(returncode: int) -> str:
    """An exit status in words."""
    if returncode >= 0:
        return f"exit status {returncode}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-returncode).name}"
    return f"killed by signal {-returncode}"


def _living_groups(numbers: Collection[int]) -> set[int]:
    """Those of the process groups that have a member which still runs (a zombie does not)."""
    members = (fields for fields in map(_stat, _all_pids()) if fields is not None and fields[0] != "Z")
    return {group for fields in members if (group := int(fields[2])) in numbers}


def _all_pids() -> Iterator[int]:
    return (int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit())


def _stat(pid: int) -> list[Any] | None:
    """Fields of /proc/PID/stat from the state (field 3) on; the name before them may contain anything."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()
