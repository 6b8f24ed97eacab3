"""A gevent server in a thread of its own, and the clients that are used beside it."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import gevent
from client_peers import free_port
from gevent.event import Event

from websocket_fabric import Message, connect
from websocket_fabric.gevent_server import GeventConnection, GeventServer

WAIT_S = 20


class Host:
    """The thread and what can be done in it."""

    def __init__(self, prepare: Callable[[GeventServer], None], options: dict[str, Any]) -> None:
        self.port = free_port()
        self._prepare, self._options = prepare, options
        self._jobs: list[Callable[[], Any]] = []
        self._ready, self._done = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._result: Any = None
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Serve."""
        self._thread.start()
        assert self._ready.wait(WAIT_S)
        if self._failure is not None:
            raise self._failure

    def _run(self) -> None:
        self._called: Any = Event()
        self._call: Any = gevent.get_hub().loop.async_()
        self._call.start(self._called.set)
        try:
            self.server = GeventServer(f"127.0.0.1:{self.port}", **self._options)
            self._prepare(self.server)
            self.server.start()
        except BaseException as error:
            self._failure = error
            return
        finally:
            self._ready.set()
        while self.server is not None:
            self._called.wait()
            self._called.clear()
            self._work()
        self._call.close()
        gevent.get_hub().destroy(destroy_loop=True)

    def _work(self) -> None:
        while self._jobs:
            try:
                self._result = self._jobs.pop(0)()
            except BaseException as error:
                self._failure = error
            self._done.set()

    def call(self, function: Callable[[GeventServer], Any]) -> Any:
        """Call it in the thread; gives or raises what it did."""
        self._done.clear()
        self._jobs.append(lambda: function(self.server))
        self._call.send()
        assert self._done.wait(WAIT_S)
        if self._failure is not None:
            failure, self._failure = self._failure, None
            raise failure
        return self._result

    def stop(self) -> None:
        """Stop gracefully, and end the thread."""

        def last(server: GeventServer) -> None:
            server.stop()
            self.server = None  # type: ignore[assignment]

        if self._thread.is_alive():
            self.call(last)
            self._thread.join(WAIT_S)
            assert not self._thread.is_alive()


@contextlib.contextmanager
def gevent_server(prepare: Callable[[GeventServer], None], **options: Any) -> Iterator[Host]:
    """A server that was prepared by this function, in a thread."""
    host = Host(prepare, options)
    host.start()
    try:
        yield host
    finally:
        host.stop()


def connected(message: Message) -> GeventConnection:
    """Where it came from."""
    assert isinstance(message.connection, GeventConnection)
    return message.connection


def echo(server: GeventServer) -> None:
    """Send back what comes."""

    @server.on_message
    def answer(message: Message) -> str | bytes:
        return message.data


def run(host: Host, *sends: str) -> list[str | bytes]:
    """Send these, and give as many answers."""

    async def client() -> list[str | bytes]:
        async with connect(f"ws://127.0.0.1:{host.port}/") as connection:
            for text in sends:
                connection.send(text)
            return [await connection.receive() for _ in sends]

    return asyncio.run(asyncio.wait_for(client(), 20))


def raw(port: int, receive_bytes: int = 0) -> socket.socket:
    """A client that is nothing but a socket after its handshake."""
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", port))
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    assert b" 101 " in answer
    return sock


def frame(text: str) -> bytes:
    """A short message of a client, masked with zeros."""
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text.encode()


def until(fact: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline_s = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)
