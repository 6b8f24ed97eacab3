"""The opening handshake of one connection, from its first byte until it is open or refused.

Knows which questions are asked in which order; the bytes of question and answer are handshake.py's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from websocket_fabric.handshake import Refused, Request, RequestReader, accept
from websocket_fabric.protocol import Protocol
from websocket_fabric.writer import BY_OPENING

if TYPE_CHECKING:
    from websocket_fabric.connection import Connection

log = logging.getLogger(__name__)


class Opening:
    """What is known of a connection that is not open yet."""

    __slots__ = ("_connection", "_reader", "_rest", "asked")

    def __init__(self, connection: Connection, request: Request | None, first_bytes: bytes) -> None:
        self._connection = connection
        self._rest = first_bytes
        self._reader: RequestReader | None = None
        connection.request = request
        self.asked = False
        """The request was read; on_connect is being asked."""

    def begin(self) -> None:
        """The socket is there; the request may be, too."""
        if self._connection.request is not None:
            self._guard(self._ask)

    def feed(self, data: bytes) -> None:
        """More of the request, or of what a hasty client sends after it."""
        if self.asked:
            self._rest += data
        else:
            self._guard(self._read, data)

    def _guard(self, step: Callable[..., None], *arguments: bytes) -> None:
        try:
            step(*arguments)
        except Refused as refused:
            self._connection.refuse(refused)

    def _read(self, data: bytes) -> None:
        if self._reader is None:
            self._reader = RequestReader(self._connection.server.limits)
        read = self._reader.feed(data)
        if read is not None:
            self._connection.request, self._rest = read
            self._ask()

    def _ask(self) -> None:
        connection = self._connection
        server, request = connection.server, connection.request
        assert request is not None  # noqa: S101 - for mypy
        if server.is_stopping:
            raise Refused(503, "The server is stopping; come again.")
        if len(server.connections) >= server.limits.connections_max:
            raise Refused(503, f"This server holds {server.limits.connections_max} connections, its limit.")
        accepted = accept(request, origins=server.origins, subprotocols=server.subprotocols, deflate=server.deflate)
        connection.protocol = Protocol("server", server.limits, deflate=accepted.deflate)
        connection.path, connection.subprotocol = request.target, accepted.subprotocol
        self.asked = True
        # what is sent before the answer waits like anything that a slow client has to wait for
        connection.outbox = connection.make_outbox()
        server.accepted(connection)

        def answered(_result: object, error: BaseException | None) -> None:
            self._answered(accepted.response, error)

        if server.connect_hook is None:
            answered(None, None)
        else:
            connection.hold(BY_OPENING)
            server.delivery.run(connection, server.connect_hook, answered)

    def _answered(self, response: bytes, error: BaseException | None) -> None:
        connection = self._connection
        if isinstance(error, Refused):
            connection.refuse(error)
        elif error is not None:
            log.error("on_connect failed", exc_info=error)
            connection.refuse(Refused(500, "The server failed to open this connection."))
        else:
            connection.open(response, self._rest)
