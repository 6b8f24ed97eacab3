"""A client whose every byte the test decides, on a blocking socket; and the server process that it talks to."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from websocket_fabric import Limits
from websocket_fabric.protocol import Protocol

HOST_PROGRAM = Path(__file__).with_name("fault_host.py")
PATIENCE_S = 30.0
LARGEST = Limits(message_bytes_max=1 << 30)
RESET = struct.pack("ii", 1, 0)
KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def request(path: str = "/", *more: str) -> bytes:
    """A handshake."""
    lines = [
        f"GET {path} HTTP/1.1",
        "Host: localhost",
        "Connection: Upgrade",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        f"Sec-WebSocket-Key: {KEY}",
        *more,
    ]
    return "\r\n".join([*lines, "", ""]).encode()


class RawPeer:
    """One connection. Nothing is read or answered unless a test asks for it."""

    def __init__(self, port: int, *, receive_bytes: int = 0) -> None:
        """`receive_bytes`: what the kernel holds for us, when we do not read (0: its own default)."""
        self.socket = socket.socket()
        self.socket.settimeout(PATIENCE_S)
        if receive_bytes:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        self.socket.connect(("127.0.0.1", port))
        self.protocol = Protocol("client", LARGEST)
        self._arrived: list[str | bytes] = []
        self.pings_answered = 0

    def shake(self, path: str = "/", *more: str) -> int:
        """Ask for a connection; gives the HTTP status."""
        self.socket.sendall(request(path, *more))
        head = b""
        while b"\r\n\r\n" not in head:
            data = self.socket.recv(4096)
            if not data:
                raise ConnectionResetError("no answer to the handshake")
            head += data
        head, _, rest = head.partition(b"\r\n\r\n")
        status = int(head.split(b" ")[1])
        if status == 101:
            self._arrived += self.protocol.feed(rest)
        return status

    def send(self, *messages: str | bytes) -> None:
        """Send messages, whole."""
        self.socket.sendall(b"".join(self.protocol.message(one) for one in messages))

    def push(self, message: str, *, patience_s: float = 0.2) -> int:
        """Send this again and again until nothing is taken for a moment; gives how often it was."""
        frame, pushed = self.protocol.message(message), 0
        self.socket.settimeout(patience_s)
        try:
            while True:
                self.socket.sendall(frame)
                pushed += 1
        except TimeoutError:
            return pushed
        finally:
            self.socket.settimeout(PATIENCE_S)

    def receive(self, *, read_bytes: int = 65536) -> str | bytes | None:
        """The next message; None at the end, which `protocol.close_code` explains. Pings are answered meanwhile."""
        while not self._arrived:
            if self.protocol.closed:
                return None
            try:
                data = self.socket.recv(read_bytes)
            except ConnectionResetError:
                return None
            if not data:
                return None
            self._arrived += self.protocol.feed(data)
            self.pings_answered += bool(self.protocol.out) and not self.protocol.closed
            out = b"".join(self.protocol.out)
            self.protocol.out.clear()
            with contextlib.suppress(OSError):
                self.socket.sendall(out)
        return self._arrived.pop(0)

    def ask(self, message: str) -> Any:
        """Send, and give the answer. Fails where the connection is gone."""
        self.send(message)
        answer = self.receive()
        assert answer is not None, f"closed with {self.protocol.close_code} {self.protocol.close_reason}"
        return answer

    def rest(self) -> list[str | bytes]:
        """All messages until the end."""
        messages = []
        while (message := self.receive()) is not None:
            messages.append(message)
        return messages

    def end(self) -> tuple[int, str]:
        """Code and reason with which the server closes. Fails where a message comes first."""
        assert self.receive() is None
        return self.protocol.close_code, self.protocol.close_reason

    def reset(self) -> None:
        """Vanish: the other end sees a reset."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        self.socket.close()

    def close(self) -> None:
        """Close the socket."""
        self.socket.close()

    def __enter__(self) -> RawPeer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


@dataclass(frozen=True)
class HostProcess:
    """A running fault_host.py."""

    ports: dict[str, int]
    process: subprocess.Popen[str]
    peers: list[RawPeer] = field(default_factory=list)
    """All that were made, to be closed at the end of a test."""

    def raw(self, profile: str, **options: Any) -> RawPeer:
        """A connection without a handshake."""
        self.peers.append(RawPeer(self.ports[profile], **options))
        return self.peers[-1]

    def peer(self, profile: str, path: str = "/", *more: str, **options: Any) -> RawPeer:
        """A connection to one of its servers. Fails where it is refused."""
        peer = self.raw(profile, **options)
        assert peer.shake(path, *more) == 101
        return peer

    def refused(self, profile: str, *more: str) -> int:
        """The status of a handshake, 101 for none."""
        with self.raw(profile) as peer:
            return peer.shake("/", *more)

    def counts(self, profile: str) -> dict[str, int]:
        """What this server counted."""
        with self.peer(profile, "/control") as control:
            counts: dict[str, int] = json.loads(control.ask("counts"))
            return counts

    def fate(self, name: str) -> list[Any]:
        """Code and reason of a connection that is gone, or about to be, whichever server had it.

        The first server is asked, for this client must not be cut off itself while it waits.
        """
        with self.peer(next(iter(self.ports)), "/control") as control:
            ended: list[Any] = json.loads(control.ask(f"fate {name}"))
            return ended

    def files(self) -> int:
        """Open files of the process."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def peak_bytes(self) -> int:
        """The most memory it had since `forget_peak`."""
        for line in Path(f"/proc/{self.process.pid}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
        raise RuntimeError("the kernel tells no peak")

    def forget_peak(self) -> int:
        """Begin to measure the peak anew; gives what it has now."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")
        return self.peak_bytes()

    def wait_for_files(self, count: int) -> None:
        """Wait until it has no more open files than this."""
        deadline = time.monotonic() + PATIENCE_S
        while self.files() > count:
            assert time.monotonic() < deadline, f"{self.files()} files are open, {count} were before"
            time.sleep(0.01)

    def hang_up(self) -> None:
        """Close every connection that a test left open."""
        for peer in self.peers:
            peer.close()
        self.peers.clear()

    def stop(self) -> int:
        """SIGTERM, and its exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(PATIENCE_S)


@contextmanager
def running_host(kind: str, profiles: dict[str, dict[str, Any]]) -> Iterator[HostProcess]:
    """Servers of this kind with these limits, in a process of their own."""
    argv = [sys.executable, "-W", "error", str(HOST_PROGRAM), kind, json.dumps(profiles)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        host = HostProcess(json.loads(process.stdout.readline()), process)
        yield host
        host.hang_up()
    finally:
        process.stdout.close()
        if process.poll() is None:
            process.kill()
        process.wait(PATIENCE_S)
