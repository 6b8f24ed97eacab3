"""The opening handshake of one connection, from its first byte until it is open or refused.

Knows which questions are asked in which order; the bytes of question and answer are handshake.py's.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from websocket_fabric.handshake import Refused, Request, accept, parse_request
from websocket_fabric.protocol import Protocol

if TYPE_CHECKING:
    from websocket_fabric.connection import Connection

log = logging.getLogger(__name__)


class Opening:
    """What is known of a connection that is not open yet."""

    __slots__ = ("_connection", "_data", "asked", "opened")

    def __init__(self, connection: Connection, request: Request | None, first_bytes: bytes) -> None:
        self._connection = connection
        self._data = first_bytes
        connection.request = request
        self.asked = False
        """The request was read; on_connect is being asked."""
        self.opened = False

    def begin(self) -> None:
        """The socket is there; the request may be, too."""
        if self._connection.request is not None:
            self._guard(self._ask)

    def feed(self, data: bytes) -> None:
        """More of the request, or of what a hasty client sends after it."""
        self._data += data
        if not self.asked:
            self._guard(self._read)

    def _guard(self, step: object) -> None:
        try:
            step()  # type: ignore[operator]
        except Refused as refused:
            self._connection.refuse(refused)

    def _read(self) -> None:
        size_max = self._connection.server.limits.handshake_bytes_max
        parsed = parse_request(self._data)
        if parsed is None:
            if len(self._data) > size_max:
                raise Refused(431, f"A request may have {size_max} bytes.")
            return
        request, rest = parsed
        if len(self._data) - len(rest) > size_max:
            raise Refused(431, f"A request may have {size_max} bytes.")
        self._connection.request, self._data = request, rest
        self._ask()

    def _ask(self) -> None:
        connection = self._connection
        server, request = connection.server, connection.request
        assert request is not None  # noqa: S101 - for mypy
        if server.is_stopping:
            raise Refused(503, "The server is stopping; come again.")
        if len(server.connections) >= server.limits.connections_max:
            raise Refused(503, f"This server holds {server.limits.connections_max} connections, its limit.")
        accepted = accept(request, origins=server.origins, subprotocols=server.subprotocols)
        connection.protocol = Protocol("server", server.limits)
        connection.subprotocol = accepted.subprotocol
        self.asked = True
        server.accepted(connection)

        def answered(_result: object, error: BaseException | None) -> None:
            self._answered(accepted.response, error)

        if server.connect_hook is None:
            answered(None, None)
        else:
            connection.hold_for_opening()
            server.delivery.run(connection, server.connect_hook, answered)

    def _answered(self, response: bytes, error: BaseException | None) -> None:
        connection = self._connection
        if isinstance(error, Refused):
            connection.refuse(error)
        elif error is not None:
            log.error("on_connect failed", exc_info=error)
            connection.refuse(Refused(500, "The server failed to open this connection."))
        else:
            self.opened = True
            connection.open(response, self._data)
