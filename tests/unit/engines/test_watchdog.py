"""The watchdog ends a process whose native call hangs, and leaves others alone."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[3]

HANG = """
import ctypes, sys
from pathlib import Path
from workers.watchdog import Watchdog

def stuck():
    ctypes.PyDLL(None).sleep(60)  # holds the interpreter lock

with Watchdog(0.5, Path(sys.argv[1])).guard():
    stuck()
"""

TWO = """
import sys, threading, time
from pathlib import Path
from workers.watchdog import Watchdog

long, early, short = (Watchdog(seconds, Path(sys.argv[1])) for seconds in (2.0, 0.3, 30))
inside = threading.Event()

def quick_calls():
    while not inside.wait(0.01):
        with short.guard():
            pass

threading.Thread(target=quick_calls, daemon=True).start()
with long.guard() as renew:
    for _ in range(4):
        time.sleep(0.65)  # in all beyond the guard's end, be it as late as it may
        renew()
    print("renewed", flush=True)
    with early.guard():
        time.sleep(30)
"""


def run(code: str, trace: Path) -> tuple[int, str, float]:
    """Run a program from the repository's root."""
    began = time.monotonic()
    result = subprocess.run(
        [sys.executable, "-c", code, str(trace)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    return result.returncode, result.stdout, time.monotonic() - began


def test_native_hang_ends_the_process(tmp_path: Path) -> None:
    """A call that holds the interpreter lock is ended in time, and the trace names where it was."""
    trace = tmp_path / "logs" / "node.hang"
    status, _, took_s = run(HANG, trace)
    assert status == 1
    assert took_s < 20
    assert "stuck" in trace.read_text(encoding="utf-8")


def test_several_guards_share_the_timer(tmp_path: Path) -> None:
    """Renewed guards live on; the earliest end holds while shorter calls of another guard come and go."""
    status, output, took_s = run(TWO, tmp_path / "trace")
    assert status == 1
    assert output == "renewed\n"
    assert took_s < 20
