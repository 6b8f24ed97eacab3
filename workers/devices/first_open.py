"""Asks a process of its own to open a device, and turns every way in which that can end into a sentence.

The process is in the group of its worker and ends with it. It may crash, abort, hang, or sit in a driver that even
SIGKILL does not reach: none of it takes longer than TRIAL_S and a little, and none of it harms the worker.
"""

from __future__ import annotations

import fcntl
import logging
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from workers.child_process import describe_exit
from workers.devices.wire import Question, Trial

log = logging.getLogger(__name__)

CODE = Path(__file__).resolve().parents[2]
TRIAL_S = 30.0
"""A stick gets its firmware at its first opening, which takes seconds."""
KILL_WAIT_S = 2.0
SAID_CHARS_MAX = 300
TURN_S = 2 * TRIAL_S
"""Longest wait until the other workers of this machine have opened their sticks; then it is tried beside them."""
TURN_POLL_S = 0.1


def ask(question: Question, *, timeout_s: float = TRIAL_S) -> Trial:
    """Open or list, in bounded time. Raises nothing: what went wrong is in the answer."""
    argv = [sys.executable, "-m", "workers.devices.probe"]
    process = subprocess.Popen(
        argv, cwd=CODE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    )
    try:
        out, err = process.communicate(msgspec.json.encode(question), timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _end(process)
        what = "opening the device" if question.device else "asking it for its devices"
        problem = f"{question.library} did not come back from {what} within {timeout_s:g} s: the device hangs."
        return Trial(problem=problem, exact=True, device=question.device)
    if process.returncode == 0:
        return msgspec.json.decode(out, type=Trial)
    said = _last_words(err)
    return Trial(
        problem=f"{question.library} ended the process that tried it ({describe_exit(process.returncode)}"
        f"{f': {said}' if said else ''}). A build of libedgetpu that does not match the runtime does this; so does a "
        "device without enough power.",
        exact=True,
        device=question.device,
    )


@contextmanager
def turn(file: Path, *, timeout_s: float = TURN_S) -> Iterator[None]:
    """One worker of a machine at a time: opening a USB stick renumbers all of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("a") as lock:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    log.warning("another worker has been opening a device for %.0f s; going on beside it", timeout_s)
                    break
                time.sleep(TURN_POLL_S)
        yield


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    try:
        process.communicate(timeout=KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        # it waits inside a driver; the kernel ends it when the driver lets go
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def _last_words(err: bytes) -> str:
    """The last line that is no Python traceback's frame."""
    lines = [line.strip() for line in err.decode(errors="replace").splitlines() if line.strip()]
    return lines[-1][:SAID_CHARS_MAX] if lines else ""
