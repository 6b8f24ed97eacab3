"""Machines for tests of a reef that spans several: each is a network namespace, or else a loopback address of its own.

Two machines are joined by one link that can be cut: packets are then dropped without a word, as when a cable is
pulled. Where namespaces are not allowed, the second machine reaches the first one through a proxy in this process that
swallows everything while the link is cut.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import selectors
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from services import free_port

ROOT = Path(__file__).parent.parent
CLONE_NEWNET = 0x40000000
NETWORK = "10.203.17"
"""Of the namespaces; nothing outside them sees it."""


def namespaces_work() -> bool:
    """Whether this user may make network namespaces, name them, and work in them (in a jail one may not be found)."""
    probe = f"reef-probe-{os.getpid()}"
    tries = (
        ["ip", "netns", "add", probe],
        ["ip", "-n", probe, "link", "set", "lo", "up"],
        ["ip", "-n", probe, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1"],
        ["ip", "netns", "exec", probe, "true"],
    )
    try:
        return all(_succeeds(argv) for argv in tries)
    except (OSError, subprocess.TimeoutExpired):
        return False
    finally:
        with suppress(OSError, subprocess.TimeoutExpired):
            _succeeds(["ip", "netns", "delete", probe])


def _succeeds(argv: list[str]) -> bool:
    return subprocess.run(argv, capture_output=True, timeout=10, check=False).returncode == 0


class Link:
    """The way from the second machine to the first: `address` is how the first is reached from the second."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.names = [f"reef{end}{os.getpid()}" for end in "ab"]
        self.proxies: list[FaultProxy] = []

    @property
    def address(self) -> str:
        """Of the first machine, as both see it."""
        return f"{NETWORK}.1" if self.kind == "namespaces" else "127.0.0.1"

    def on_second(self, argv: list[str]) -> list[str]:
        """A command that runs on the second machine."""
        return ["ip", "netns", "exec", self.names[1], *argv] if self.kind == "namespaces" else argv

    @contextmanager
    def on_first(self) -> Iterator[None]:
        """This thread, and the processes and threads it starts, are on the first machine meanwhile."""
        if self.kind == "proxy":
            yield
            return
        with open("/proc/thread-self/ns/net") as before, open(f"/run/netns/{self.names[0]}") as first:
            _enter(first.fileno())
            try:
                yield
            finally:
                _enter(before.fileno())

    def port(self, port: int) -> int:
        """The port under which the second machine finds a port of the first."""
        if self.kind == "namespaces":
            return port
        proxy = FaultProxy(port)
        self.proxies.append(proxy)
        return proxy.port

    def cut(self) -> None:
        """From now on nothing arrives, and nobody is told so."""
        for proxy in self.proxies:
            proxy.swallow(True)
        if self.kind == "namespaces":
            _ip("-n", self.names[1], "link", "set", "veth1", "down")

    def heal(self) -> None:
        """It carries again."""
        for proxy in self.proxies:
            proxy.swallow(False)
        if self.kind == "namespaces":
            _ip("-n", self.names[1], "link", "set", "veth1", "up")


@contextmanager
def joined(kind: str) -> Iterator[Link]:
    """Two machines and their link. `kind`: namespaces or proxy."""
    link = Link(kind)
    try:
        if kind == "namespaces":
            for name in link.names:
                _ip("netns", "add", name)
                _ip("-n", name, "link", "set", "lo", "up")
            first, second = link.names
            _ip("-n", first, "link", "add", "veth0", "type", "veth", "peer", "name", "veth1", "netns", second)
            for number, (name, end) in enumerate(((first, "veth0"), (second, "veth1")), start=1):
                _ip("-n", name, "address", "add", f"{NETWORK}.{number}/24", "dev", end)
                _ip("-n", name, "link", "set", end, "up")
        yield link
    finally:
        for proxy in link.proxies:
            proxy.close()
        for name in link.names if kind == "namespaces" else ():
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, timeout=10, check=False)


def _enter(namespace: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=10)


class Part:
    """A process of the product, with its log."""

    def __init__(self, name: str, argv: list[str], environment: dict[str, str], directory: Path) -> None:
        self.name, self.log = name, directory / f"{name}.log"
        clean = {key: value for key, value in os.environ.items() if not key.startswith(("REEF_", "OTEL_"))}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                argv, env=clean | {"PYTHONUNBUFFERED": "1"} | environment, cwd=ROOT, stdout=log, stderr=log
            )

    def stop(self, sig: int = signal.SIGTERM) -> None:
        """End it and wait."""
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            self.process.wait(15)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(5)

    def text(self) -> str:
        """What it said."""
        return self.log.read_text(encoding="utf-8", errors="replace")


def product(*words: str) -> list[str]:
    """A command of ours."""
    return [sys.executable, "-m", "cli", *words]


class FaultProxy:
    """One TCP port that leads to another, and swallows all bytes of all its connections while it is told to."""

    def __init__(self, target: int) -> None:
        self.target = target
        self.port = free_port()
        self._swallowing = False
        self._closing = False
        self._listener = socket.create_server(("127.0.0.1", self.port))
        self._peers: dict[socket.socket, socket.socket] = {}
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._loop, name="fault-proxy", daemon=True)
        self._thread.start()

    def swallow(self, now: bool) -> None:
        """Drop what comes from now on, or carry it. Connections that lost bytes are of no use any more: they end."""
        self._swallowing = now

    def close(self) -> None:
        """End every connection."""
        self._closing = True
        self._thread.join(5)

    def _loop(self) -> None:
        torn: set[socket.socket] = set()
        while not self._closing:
            for key, _ in self._selector.select(0.05):
                if key.fileobj is self._listener:
                    self._accept(torn)
                else:
                    self._carry(key.fileobj, torn)  # type: ignore[arg-type]
            if not self._swallowing and torn:
                for end in list(torn):
                    self._hang_up(end)
                torn.clear()
        for end in list(self._peers):
            self._hang_up(end)
        self._selector.close()
        self._listener.close()

    def _accept(self, torn: set[socket.socket]) -> None:
        client, _ = self._listener.accept()
        try:
            server = socket.create_connection(("127.0.0.1", self.target), timeout=1)
        except OSError:
            client.close()
            return
        for one, other in ((client, server), (server, client)):
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)
        if self._swallowing:
            torn.add(client)

    def _carry(self, end: socket.socket, torn: set[socket.socket]) -> None:
        other = self._peers.get(end)
        if other is None:
            return
        try:
            data = end.recv(65_536)
            if data and self._swallowing:
                torn.add(end)
                return
            if data:
                other.sendall(data)
                return
        except OSError:
            pass
        self._hang_up(end)

    def _hang_up(self, end: socket.socket) -> None:
        other = self._peers.pop(end, None)
        if other is None:
            return
        del self._peers[other]
        for one in (end, other):
            self._selector.unregister(one)
            one.close()


class TlsEnd:
    """Ends TLS before a server that has none."""

    def __init__(self, target: int, certificate: Path, key: Path) -> None:
        self._target = target
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(certificate, key)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="tls-end", daemon=True)
        self._thread.start()
        self.port = free_port()
        serving = asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=self._context)
        self._server = asyncio.run_coroutine_threadsafe(serving, self._loop).result(5)

    def close(self) -> None:
        """Stop serving."""

        async def end() -> None:
            self._server.close()
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(5)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            onward, back = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            writer.close()
            return
        try:
            await asyncio.gather(self._pump(reader, back), self._pump(onward, writer))
        finally:
            writer.transport.abort()  # a farewell would need a loop that goes on
            back.transport.abort()

    @staticmethod
    async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        try:
            while data := await source.read(65_536):
                sink.write(data)
                await sink.drain()
        except OSError:
            pass
        finally:
            sink.close()


def wait_for(what: str, condition: object, parts: list[Part], timeout_s: float = 30.0) -> None:
    """Wait until `condition()` holds. Fails with the logs of the parts."""
    assert callable(condition)
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(f"--- {part.name}\n{part.text()[-3000:]}" for part in parts)
            raise AssertionError(f"{what} did not come within {timeout_s:.0f} s\n{logs}")
        time.sleep(0.1)
