"""Both ends of the gateway's socket, real: the gateway's in a loop in a thread, the web process's with its clients."""

from __future__ import annotations

import asyncio
import io
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from app.gateway.adoption import Adoption
from app.handoff import Gateway
from reef.contracts.handover import Report
from websocket_fabric import Connection, WebSocketServer
from websocket_fabric.messages import Data, Message

KEY = "dGhlIHNhbXBsZSBub25jZQ=="
HELLO = b"\x81\x85\0\0\0\0hello"
ECHO = b"\x81\x05hello"
PATIENCE_S = 10.0


class Far:
    """The gateway's end, echoing, in a thread of its own."""

    def __init__(self, path: Path) -> None:
        self.path, self.outcomes = path, Counter[str]()
        self.has_room = True
        self.requests: list[Any] = []
        self.loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self.loop.run_forever)
        self._thread.start()
        self.adoption = self.call(self._open())

    async def _open(self) -> Adoption:
        self.server = WebSocketServer()

        @self.server.on_connect
        def note(connection: Connection) -> None:
            self.requests.append(connection.request)

        @self.server.on_message
        async def echo(message: Message) -> Data:
            return message.data

        await self.server.start()
        opened = Adoption(
            self.server,
            has_room=lambda: self.has_room,
            report=lambda: Report(sockets_open=7, metrics="# none\n"),
            count=lambda outcome: self.outcomes.update([outcome]),
        )
        opened.start(self.path)
        return opened

    def call(self, what: Coroutine[Any, Any, Any]) -> Any:
        """Run it in the loop."""
        return asyncio.run_coroutine_threadsafe(what, self.loop).result(PATIENCE_S)

    def do(self, what: Callable[[], Any]) -> Any:
        """Call it in the loop."""

        async def run() -> Any:
            return what()

        return self.call(run())

    def hold(self) -> threading.Event:
        """Freeze the loop until this event is set."""
        frozen, thaw = threading.Event(), threading.Event()

        def freeze() -> None:
            frozen.set()
            thaw.wait(PATIENCE_S)

        self.loop.call_soon_threadsafe(freeze)
        assert frozen.wait(PATIENCE_S)
        return thaw

    def settle(self, outcome: str, times: int = 1) -> None:
        """Wait until this has become of so many sockets."""
        deadline = time.monotonic() + PATIENCE_S
        while self.outcomes[outcome] < times:
            assert time.monotonic() < deadline, self.outcomes
            time.sleep(0.005)

    def close(self) -> None:
        async def end() -> None:
            await self.adoption.close()
            await self.server.stop()

        self.call(end())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()


class Near:
    """The web process's end, with what it counted, and clients whose sockets it accepted."""

    def __init__(self, path: Path) -> None:
        self.outcomes: list[str] = []
        self.gateway = Gateway(path, self.outcomes.append)
        self.clients: list[socket.socket] = []

    def client(self, **fields: Any) -> tuple[socket.socket, dict[str, Any]]:
        """A client, and the request in which it was accepted."""
        client, accepted = socket.socketpair()
        client.settimeout(PATIENCE_S)
        self.clients += [client, accepted]
        unreader = SimpleNamespace(buf=io.BytesIO(fields.pop("read_ahead", b"")))
        environ = {
            "gunicorn.socket": accepted,
            "wsgi.input": SimpleNamespace(reader=SimpleNamespace(unreader=unreader)),
            "RAW_URI": "/ws?x=%20",
            "REMOTE_ADDR": "10.1.2.3",
            "HTTP_HOST": "localhost",
            "HTTP_UPGRADE": "websocket",
            "HTTP_CONNECTION": "Upgrade",
            "HTTP_SEC_WEBSOCKET_VERSION": "13",
            "HTTP_SEC_WEBSOCKET_KEY": KEY,
            "HTTP_COOKIE": "reef_key=secret",
            "HTTP_AUTHORIZATION": "Bearer secret",
        }
        return client, environ | fields

    def hand_over(self, environ: dict[str, Any]) -> str:
        """What became of it. Gone: its socket is closed here, as gunicorn does it then."""
        gone = self.gateway.hand_over(environ, "req1")
        assert gone is (self.outcomes[-1] in ("handed_over", "unclear"))
        if gone:
            environ["gunicorn.socket"].close()
        return self.outcomes[-1]

    def close(self) -> None:
        self.gateway.close()
        for one in self.clients:
            one.close()


def read(client: socket.socket, size: int) -> bytes:
    """Exactly so many bytes."""
    data = b""
    while len(data) < size:
        more = client.recv(size - len(data))
        assert more, data
        data += more
    return data


def read_head(client: socket.socket) -> bytes:
    """The answer to the handshake."""
    data = b""
    while not data.endswith(b"\r\n\r\n"):
        data += read(client, 1)
    return data


def untouched(client: socket.socket) -> bool:
    """Nothing has come, and the connection is open."""
    client.settimeout(0)
    try:
        client.recv(1)
    except BlockingIOError:
        return True
    finally:
        client.settimeout(PATIENCE_S)
    return False


def ask_once(path: Path) -> None:
    """The gateway says how it is."""
    gateway = Gateway(path)
    assert gateway.report() == Report(sockets_open=7, metrics="# none\n")
    gateway.close()
