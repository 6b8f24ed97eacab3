"""`python -m reef.knowledge.parsing.child`: read files one after another, in chains. Imports nothing of the worker.

Before anything else the process puts its own limits on: address space, file size, no core dumps, lowest priority, and,
where the kernel lets it, a network namespace with nothing in it. It ends when its parent does.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import threading
from pathlib import Path
from typing import BinaryIO

from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.wire import (
    LENGTH,
    Answer,
    Parsed,
    Ready,
    Refused,
    Request,
    Setup,
    decode_order,
    frame,
)
from reef.ports import ParseFailed
from reef.priority import give_way

NICE = 15
_NEW_USER, _NEW_NET = 0x10000000, 0x40000000
OUT_OF_MEMORY = 77
"""The status with which a child ends that could not even say so."""


def main() -> None:
    """Serve until the parent closes the pipe."""
    orders, answers = _own_pipes()
    setup = _next(orders)
    if not isinstance(setup, Setup):
        raise SystemExit("The first message must be the set-up.")
    _chain(setup.limits)
    # only now: a namespace can be left by a process of one thread alone
    threading.Thread(target=_end_with_parent, args=(orders.fileno(),), daemon=True).start()
    from reef.knowledge.parsing import reading

    reading.warm()
    _say(answers, Ready(_rss_bytes()))
    while isinstance(order := _next(orders), Request):
        _allow_processor_time(setup.limits.time_s)
        try:
            document = reading.read(Path(order.path), order.name, setup.limits, setup.ocr_languages)
            _say(answers, Parsed(document, _rss_bytes()))
        except ParseFailed as error:
            _say(answers, Refused(error.code, str(error), _rss_bytes()))
        except MemoryError:
            # what else lies about in this process is unknown: a fresh one reads the next file
            os._exit(OUT_OF_MEMORY)
        except Exception as error:  # noqa: BLE001  whatever a broken file does to a parser is that file's failure
            message = f"The file cannot be read: the reader failed on it ({type(error).__name__})."
            _say(answers, Refused("corrupt", message, _rss_bytes()))
    # a library's threads must not hold up the end
    os._exit(0)


def _own_pipes() -> tuple[BinaryIO, BinaryIO]:
    """Standard input and output for ourselves; whatever a library prints goes to standard error."""
    orders, answers = os.fdopen(os.dup(0), "rb", buffering=0), os.fdopen(os.dup(1), "wb", buffering=0)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    return orders, answers


def _chain(limits: ParseLimits) -> None:
    give_way(NICE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (limits.memory_bytes_max, limits.memory_bytes_max))
    resource.setrlimit(resource.RLIMIT_FSIZE, (limits.written_bytes_max, limits.written_bytes_max))
    libc = ctypes.CDLL(None, use_errno=True)
    # a container or a hardened kernel may forbid it; nothing here needs the network anyway
    libc.unshare(_NEW_USER | _NEW_NET)


def _allow_processor_time(time_s: float) -> None:
    """So much more from now on; a native loop that hears nobody is ended by the kernel."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    soft = int(used.ru_utime + used.ru_stime + time_s) + 2
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    resource.setrlimit(resource.RLIMIT_CPU, (soft, hard))


def _end_with_parent(orders: int) -> None:
    """The pipe hangs up when the parent is gone, however it went; helpers that we started go with us."""
    poll = select.poll()
    poll.register(orders, 0)
    poll.poll()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpgrp(), signal.SIGKILL)


def _rss_bytes() -> int:
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * resource.getpagesize()


def _next(orders: BinaryIO) -> Setup | Request | None:
    head = _exactly(orders, LENGTH.size)
    return decode_order(_exactly(orders, LENGTH.unpack(head)[0])) if head else None


def _exactly(orders: BinaryIO, count: int) -> bytes:
    parts = bytearray()
    while len(parts) < count:
        piece = orders.read(count - len(parts))
        if not piece:
            return b""
        parts += piece
    return bytes(parts)


def _say(answers: BinaryIO, answer: Answer) -> None:
    left = memoryview(frame(answer))
    while left:
        left = left[answers.write(left) :]


if __name__ == "__main__":
    sys.exit(main())  # type: ignore[func-returns-value]
