"""The load client (client.c) from Python: built when it is first needed, run for one measurement or told what to do.

Knows no server; needs a C compiler and nothing but the standard library.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import random
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

SOURCE, CONNECTIONS = (Path(__file__).with_name(name) for name in ("client.c", "connections.h"))
BUILD = Path(__file__).resolve().parents[3] / "build" / "websocket-bench"
PORT_FIRST, PORT_LAST = 20_000, 32_000
"""Below the kernel's ephemeral range: there an outgoing connection takes the port of a server any moment."""
STOP_S = 10.0

Finding = dict[str, Any]


def build() -> Path:
    """The program, compiled if this source was not compiled yet."""
    source = SOURCE.read_bytes() + CONNECTIONS.read_bytes()
    program = BUILD / f"client-{hashlib.sha256(source).hexdigest()[:16]}"
    if not program.exists():
        compiler = shutil.which("cc") or shutil.which("gcc")
        if compiler is None:
            raise SystemExit("The load client is written in C: install a compiler (apt-get install gcc libc6-dev).")
        BUILD.mkdir(parents=True, exist_ok=True)
        half = program.with_suffix(".new")
        subprocess.run([compiler, "-O2", "-Wall", "-Wextra", "-Werror", "-o", half, SOURCE], check=True)
        half.rename(program)
    return program


def free_port() -> int:
    """A port nobody listens on."""
    for port in random.sample(range(PORT_FIRST, PORT_LAST), 200):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"no free port between {PORT_FIRST} and {PORT_LAST}")


def pinned(core: int | None) -> Callable[[], None] | None:
    """For Popen's preexec_fn: the process and its children stay on this core."""
    return None if core is None else functools.partial(os.sched_setaffinity, 0, {core})


def arguments(mode: str, port: int, options: dict[str, Any]) -> list[str]:
    """The command line: `json=True` becomes --json, `reconnect_every=3` becomes --reconnect-every 3."""
    words = [str(build()), mode, "--port", str(port)]
    for name, value in options.items():
        if value is False:
            continue
        words.append("--" + name.replace("_", "-"))
        if value is not True:
            words.append(str(value))
    return words


def measure(mode: str, port: int, *, core: int | None = None, **options: Any) -> Finding:
    """One measurement from start to end. Raises RuntimeError where an answer was wrong or a connection broke."""
    with telling(mode, port, core=core, **options) as load:
        return load.sound()


class Load:
    """A running client: what it finds, line by line, and what it is told."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.opened = self.next()
        """How many connections are open, and how long it took."""

    def next(self) -> Finding:
        """Its next finding. Raises RuntimeError where it ended instead."""
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"the load client ended with {self.process.wait(STOP_S)}; it says why above")
        found: Finding = json.loads(line)
        return found

    def sound(self) -> Finding:
        """Its next finding, which must have no wrong answer and no broken connection."""
        found = self.next()
        if found.get("wrong") or found.get("broken"):
            raise RuntimeError(f"not every message came back as it was sent: {found}")
        return found

    def tell(self, lines: Sequence[str]) -> None:
        """Lines for it to read."""
        assert self.process.stdin is not None
        self.process.stdin.write("".join(line + "\n" for line in lines))
        self.process.stdin.flush()


@contextmanager
def telling(mode: str, port: int, *, core: int | None = None, **options: Any) -> Iterator[Load]:
    """A client whose connections are open; it is ended at the end."""
    process = subprocess.Popen(
        arguments(mode, port, options),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=pinned(core),  # noqa: PLW1509 - no threads here
    )
    try:
        yield Load(process)
    finally:
        process.kill()
        process.communicate()
