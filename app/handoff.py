"""The web process's end of the gateway: an accepted WebSocket goes there, whole, and this process is rid of it.

Never waits longer than HANDOVER_S for the gateway, and whatever goes wrong leaves the client where it was: the caller
serves it here. A socket has one owner at any moment: it is the gateway's when its answer is in our queue. Where none
came in time the connection is shut down, after which none can be sent, and then the queue is looked into once more.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import ssl
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import msgspec

from app.counts import Process, WebCounts
from app.gateway import place
from app.reef_status import GatewayState
from reef.contracts import handover
from reef.contracts.handover import Answer, Ask, Handover, Refused, Report, Taken
from reef.settings import Settings

log = logging.getLogger(__name__)

HANDOVER_S = 0.5
"""A gateway that answers later is busy or frozen; a person hardly notices this much."""
ASK_S = 1.0
"""Whoever asks how it is has more patience."""
REST_S = 1.0
"""A gateway that did not take a client in time is left alone this long: then a frozen one holds up a client now and
then, not every one."""
CONNECTIONS_MAX = 16
"""Clients that are being handed over at once, each on a connection of its own."""
NOT_NEEDED = frozenset({"authorization", "cookie"})
"""Headers that say who the client is. It was let in here; the gateway need not know how."""

Outcome = Literal["handed_over", "absent", "busy", "full", "stopping", "malformed", "too_long", "unfit", "unclear"]
"""`absent`: nobody listens; `busy`: no answer in time; `too_long`: more headers than fit; `unfit`: a socket that cannot
be passed on (TLS, no gunicorn), or a handshake with a body; `unclear`: an answer that means nothing, so that the socket
may be the gateway's; the others are the gateway's words."""


class _NoAnswer(Exception):
    """The gateway has not taken what it was sent, and never will."""

    def __init__(self, outcome: Literal["absent", "busy"]) -> None:
        super().__init__(outcome)
        self.outcome: Literal["absent", "busy"] = outcome


class Gateway:
    """The gateway as the web process sees it. Safe to share between threads."""

    def __init__(self, path: Path, count: Callable[[str], None] = lambda _outcome: None) -> None:
        """`count` is called with the Outcome of each client."""
        self._path, self._count = path, count
        self._kept: queue.LifoQueue[socket.socket] = queue.LifoQueue(CONNECTIONS_MAX)
        self._places = threading.BoundedSemaphore(CONNECTIONS_MAX)
        self._rests_until = 0.0

    def hand_over(self, environ: dict[str, Any], request_id: str) -> bool:
        """Give away a WebSocket whose handshake is good. True: nothing may be done with the request but end it; False:
        nothing has happened."""
        outcome = self._try(environ, request_id)
        self._count(outcome)
        return outcome in ("handed_over", "unclear")

    def report(self) -> Report | None:
        """How the gateway is, None where it does not say."""
        try:
            with place.connect(self._path, ASK_S) as connection:
                connection.send(handover.encode(Ask()))
                answer = handover.decode_answer(connection.recv(handover.ANSWER_BYTES_MAX))
        except (OSError, msgspec.DecodeError):
            return None
        return answer if isinstance(answer, Report) else None

    def close(self) -> None:
        """Let go of the connections."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._kept.get_nowait().close()

    def _try(self, environ: dict[str, Any], request_id: str) -> Outcome:
        sock = environ.get("gunicorn.socket")
        if sock is None or isinstance(sock, ssl.SSLSocket) or environ.get("CONTENT_LENGTH", "0") not in ("", "0"):
            return "unfit"
        message = handover.encode(_message(environ, request_id))
        if len(message) > handover.MESSAGE_BYTES_MAX:
            return "too_long"
        try:
            answer = self._exchange(message, sock)
        except _NoAnswer as none:
            return none.outcome
        except msgspec.DecodeError as error:
            log.error("the gateway answers what means nothing here: %s", error)  # noqa: TRY400 - no trace needed
            return "unclear"
        if isinstance(answer, Refused):
            log.info("the gateway refuses a client, which is served here: %s %s", answer.reason, answer.detail)
            return answer.reason
        return "handed_over" if isinstance(answer, Taken) else "unclear"

    def _exchange(self, message: bytes, passed: socket.socket) -> Answer:
        """Raises _NoAnswer and msgspec.DecodeError."""
        if time.monotonic() < self._rests_until or not self._places.acquire(timeout=HANDOVER_S):
            raise _NoAnswer("busy")
        try:
            return handover.decode_answer(self._send(message, passed))
        except TimeoutError:
            self._rests_until = time.monotonic() + REST_S
            log.warning("the gateway did not answer within %s s; clients are served here for a moment", HANDOVER_S)
            raise _NoAnswer("busy") from None
        except OSError as error:
            log.debug("no gateway: %s", error)
            raise _NoAnswer("absent") from None
        finally:
            self._places.release()

    def _send(self, message: bytes, passed: socket.socket) -> bytes:
        """Raises TimeoutError and OSError."""
        with contextlib.suppress(queue.Empty):
            while True:
                kept = self._kept.get_nowait()
                with contextlib.suppress(ConnectionError):  # of a gateway that is gone; its successor may be there
                    return self._send_on(kept, message, passed)
        return self._send_on(place.connect(self._path, HANDOVER_S), message, passed)

    def _send_on(self, connection: socket.socket, message: bytes, passed: socket.socket) -> bytes:
        try:
            socket.send_fds(connection, [message], [passed.fileno()])
            answer = connection.recv(handover.ANSWER_BYTES_MAX)
        except BaseException as error:
            late = _withdraw(connection)
            if late and isinstance(error, OSError):
                return late
            raise
        if not answer:
            connection.close()
            raise ConnectionResetError("the gateway hung up")
        self._kept.put_nowait(connection)
        return answer


def gateway_of(settings: Settings, counts: WebCounts) -> Gateway | None:
    """The gateway of this web process, None where these settings or this platform want none."""
    if not settings.gateway or not place.supported():
        return None
    return Gateway(place.path_of(settings), counts.handed_over)


def state(process: Process, gateway: Gateway | None, counts: WebCounts) -> GatewayState:
    """How the gateway is, and the WebSockets that this process and its gateway hold."""
    if gateway is None:
        return GatewayState("ok" if process == "gateway" else "off", counts.sockets_open)
    report = gateway.report()
    there = report.sockets_open if report is not None else 0
    return GatewayState("ok" if report is not None else "down", counts.sockets_open + there)


def _withdraw(connection: socket.socket) -> bytes:
    """End a connection; what was answered until then, empty where nothing was and nothing can be any more."""
    answer = b""
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.settimeout(0)
    for _ in range(2):  # the first may only tell that the other end was closed with something unread
        with contextlib.suppress(OSError):
            answer = answer or connection.recv(handover.ANSWER_BYTES_MAX)
    connection.close()
    return answer


def _message(environ: dict[str, Any], request_id: str) -> Handover:
    named = ((name[5:].replace("_", "-").lower(), value) for name, value in environ.items() if name[:5] == "HTTP_")
    return Handover(
        target=environ.get("RAW_URI") or environ["PATH_INFO"],
        headers={name: value for name, value in named if name not in NOT_NEEDED},
        address=environ.get("REMOTE_ADDR", ""),
        request_id=request_id,
        first_bytes=_read_ahead(environ),
    )


def _read_ahead(environ: dict[str, Any]) -> bytes:
    """What gunicorn has read of this connection beyond the handshake."""
    unreader = getattr(getattr(environ.get("wsgi.input"), "reader", None), "unreader", None)
    read: bytes = unreader.buf.getvalue() if unreader is not None else b""
    return read
