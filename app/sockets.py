"""Where WebSockets come in: they go to the gateway, and where there is none they are served here.

The host here is flask-sock, with what flask-sock 0.7 and simple-websocket 1.1 leave open closed here.

What they break: `send` instead of `sendall` (a slow reader gets a torn stream), no lock between the reader's pongs
and our messages, an input list without a bound, no size limit, compression that cannot be refused (a small frame
inflates to gigabytes), no check of Origin. Each is held by a test.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import flask_sock
import simple_websocket
from flask import Flask, Response, g, request
from simple_websocket import ConnectionClosed
from werkzeug.exceptions import BadRequest
from wsproto.events import Message, TextMessage
from wsproto.utilities import ProtocolError

from app.listener import Closed, Hopeless, Listener
from app.refusals import Refusal
from app.services import Services, services
from app.session import ENDS, FRAME_MAX, INBOX_MAX, TRY_LATER, ClientSession, TooLong, full
from websocket_fabric.handshake import Refused, Request, accept

log = logging.getLogger(__name__)

PATH = "/ws"
WEBSOCKET_ONLY = (
    "This address speaks WebSocket only. Where a client that speaks it comes through a proxy, the proxy lost its "
    "headers: let it pass Upgrade and Connection on, as the files in deploy/nginx and deploy/caddy do."
)
SOCKETS_MAX = 1000
PING_EVERY_S = 25
SEND_TIMEOUT_S = 20.0
"""A client that takes nothing this long is cut off; it can resume."""
SEND_BUFFER_BYTES = 128 * 1024
"""The kernel would hold megabytes for a client that does not read; the run's stream holds them once for all."""
RECEIVE_BYTES = 16 * 1024
IDLE_S = 30.0


class SafeSock:
    """A socket whose `send` sends everything, one caller at a time."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        sock.settimeout(SEND_TIMEOUT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES)

    def send(self, data: bytes) -> int:
        """Send all of it."""
        with self._lock:
            self._sock.sendall(data)
        return len(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)


class _Intercepted:
    """A wsproto connection whose messages go elsewhere; its other events pass."""

    def __init__(self, ws: Any, on_message: Callable[[Any], None]) -> None:
        self._ws, self._on_message = ws, on_message

    def events(self) -> Iterator[Any]:
        """All events but messages."""
        for event in self._ws.events():
            if isinstance(event, Message):
                self._on_message(event)
            else:
                yield event

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ws, name)


class BoundedServer(simple_websocket.Server):  # type: ignore[misc]
    """simple-websocket's server with bounds: of a frame, of the frames read ahead, of the time a send may take."""

    ws: Any

    def __init__(self, environ: dict[str, Any], **options: Any) -> None:
        environ = dict(environ)
        # no permessage-deflate: tokens are too short to gain by it, and it inflates without a bound
        environ.pop("HTTP_SEC_WEBSOCKET_EXTENSIONS", None)
        for name in ("gunicorn.socket", "werkzeug.socket"):
            if name in environ:
                environ[name] = SafeSock(environ[name])
        self._inbox: queue.Queue[str | bytes | TooLong | None] = queue.Queue(INBOX_MAX)
        self._parts: list[Any] = []
        self._size = 0
        try:
            super().__init__(environ, ping_interval=PING_EVERY_S, receive_bytes=RECEIVE_BYTES, **options)
        except (ProtocolError, simple_websocket.ConnectionError) as error:
            raise BadRequest(f"This is no WebSocket handshake: {error}.") from None

    def receive(self, timeout: float | None = None) -> str | bytes | TooLong:
        """The next frame. Raises ConnectionClosed."""
        while self.connected or not self._inbox.empty():
            try:
                frame = self._inbox.get(timeout=timeout or IDLE_S)
            except queue.Empty:
                continue
            if frame is not None:
                return frame
        raise ConnectionClosed(self.close_reason, self.close_message)

    def abort(self) -> None:
        """Wake and end everybody who waits for this client."""
        self.connected = False
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(queue.Full):
            self._inbox.put_nowait(None)

    def _thread(self) -> None:
        try:
            super()._thread()
        except (ConnectionClosed, ProtocolError, OSError) as error:
            log.debug("a connection ended: %s", error)
        finally:
            self.abort()

    def _handle_events(self) -> bool:
        if not isinstance(self.ws, _Intercepted):
            self.ws = _Intercepted(self.ws, self._message)
        return bool(super()._handle_events())

    def _message(self, event: Any) -> None:
        self._size += len(event.data)
        if self._size <= FRAME_MAX:
            self._parts.append(event.data)
        else:
            self._parts.clear()
        if not event.message_finished:
            return
        frame: str | bytes | TooLong
        if self._size > FRAME_MAX:
            frame = TooLong(FRAME_MAX)
        elif isinstance(event, TextMessage):
            frame = "".join(self._parts)
        else:
            frame = b"".join(self._parts)
        self._parts, self._size = [], 0
        while self.connected:
            with contextlib.suppress(queue.Full):
                self._inbox.put(frame, timeout=1.0)
                return


# flask-sock takes its server class from a global of its module and offers no other way to choose it
flask_sock.Server = BoundedServer


def install(app: Flask) -> None:
    """Serve /ws."""
    sock = flask_sock.Sock(app)

    @sock.route(PATH)  # type: ignore[untyped-decorator]
    def ws(connection: BoundedServer) -> None:
        serve(connection, services())

    serve_here = app.view_functions["ws"]

    def view() -> Any:
        _check_handshake()
        gateway = services().gateway
        if gateway is not None and gateway.hand_over(request.environ, g.request_id):
            return HandedOver(status=101)
        return serve_here()

    app.view_functions["ws"] = view
    app.add_url_rule(PATH, "ws_without_upgrade", _ask_for_upgrade)


class HandedOver(Response):
    """Ends a request whose socket belongs to another process now: gunicorn must write nothing and shut nothing down."""

    def __call__(self, *_: Any) -> Any:
        """WSGI. gunicorn takes a StopIteration for the end of the connection and closes its descriptor, no more."""
        raise StopIteration


def _check_handshake() -> None:
    """Refuse in words what is no handshake. Raises BadRequest and Refusal."""
    try:
        accept(Request(request.path, {name.lower(): value for name, value in request.headers.items()}))
    except Refused as refused:
        detail = f"This is no WebSocket handshake: {refused.reason}"
        raise (_upgrade_required(detail) if refused.status == 426 else BadRequest(detail)) from None


def _ask_for_upgrade() -> Response:
    """Answer who comes without an upgrade. Raises Refusal."""
    raise _upgrade_required(WEBSOCKET_ONLY)


def _upgrade_required(detail: str) -> Refusal:
    headers = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    return Refusal(426, "upgrade_required", "Upgrade Required", detail, headers=headers)


def serve(connection: BoundedServer, reef: Services) -> None:
    """Talk to one client until it or we leave."""
    if reef.counts.sockets_open >= SOCKETS_MAX:
        connection.close(TRY_LATER, full(SOCKETS_MAX))
        return
    reef.counts.socket(1)
    listener = reef.relay.listen()
    writer = threading.Thread(target=_write, args=(connection, listener), name="socket-writer", daemon=True)
    writer.start()
    session = ClientSession(reef.desk, reef.ledger, listener)
    try:
        while True:
            session.receive(connection.receive())
    except ConnectionClosed:
        pass
    finally:
        reef.counts.socket(-1)
        listener.close()
        connection.abort()


def _write(connection: BoundedServer, listener: Listener) -> None:
    """The only writer of this socket."""
    try:
        while True:
            for told in listener.next(IDLE_S):
                connection.send(told.text)
    except (Closed, Hopeless) as end:
        _end(connection, *ENDS[type(end)])
    except (ConnectionClosed, OSError):
        log.debug("a client went away while it was written to")
    finally:
        connection.abort()


def _end(connection: BoundedServer, code: int, reason: str) -> None:
    try:
        connection.close(code, reason)
    except (ConnectionClosed, OSError):
        log.debug("a client was gone before it was told why")
