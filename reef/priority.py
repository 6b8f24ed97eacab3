"""Less of the processor for work that can wait. Who gets which priority is decided elsewhere."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

AUTOGROUP = Path("/proc/self/autogroup")
"""Priority of this process's group, on kernels that schedule sessions against each other."""
NICE_MAX = 19
TRIES_MAX, PAUSE_S = 20, 0.06


def give_way(nice: int) -> None:
    """Lower the priority of this process, and of its session where it leads one, by so much."""
    os.nice(nice)
    # where the kernel groups processes by session, as desktops do, it compares groups and not the processes in them
    try:
        group = os.open(AUTOGROUP, os.O_WRONLY)
    except OSError:
        return
    try:
        _set(group, str(nice).encode("ascii"))
    finally:
        os.close(group)


def give_way_in_thread(nice: int) -> None:
    """Lower the priority of this thread by so much beside the others of its process."""
    thread = threading.get_native_id()
    os.setpriority(os.PRIO_PROCESS, thread, min(NICE_MAX, os.getpriority(os.PRIO_PROCESS, thread) + nice))


def _set(group: int, nice: bytes) -> None:
    for _ in range(TRIES_MAX):
        try:
            os.write(group, nice)
        except BlockingIOError:
            # without privileges all users together may change one group in a tenth of a second
            time.sleep(PAUSE_S)
        except OSError:
            return
        else:
            return
