"""Work that can wait gives way, thread by thread where it must."""

from __future__ import annotations

import os
import threading

from reef.priority import NICE_MAX, give_way_in_thread


def test_a_thread_gives_way_alone() -> None:
    """The others of its process keep their priority, and the lowest there is is low enough."""
    before = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
    seen: list[int] = []

    def work() -> None:
        for nice in (3, NICE_MAX):
            give_way_in_thread(nice)
            seen.append(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [min(before + 3, NICE_MAX), NICE_MAX]
    assert os.getpriority(os.PRIO_PROCESS, threading.get_native_id()) == before
