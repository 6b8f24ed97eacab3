"""The asyncio client, on any loop: an address, and connections to it. `reconnecting.py` keeps one through failures.

Follows no redirects and no proxies, and holds the server to everything that the protocol asks of it.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Mapping, Sequence
from urllib.parse import urlsplit

from websocket_fabric.client_connection import ClientConnection
from websocket_fabric.deflate import Deflate
from websocket_fabric.handshake import build_request, is_origin
from websocket_fabric.inbox import Inbox
from websocket_fabric.limits import Limits

Headers = Mapping[str, str] | Callable[[], Mapping[str, str]]


class Connector:
    """How to connect to an address: `async with connect(url) as connection`, or `await connect(url).open()`.

    It can be opened any number of times. `headers` may be a function, called for each connection: a credential that
    expires is fresh after a reconnect. `origin` is for a server that lets in only those of its list, and is what a
    browser would send. `ssl_context` is for wss://, and the default one is used without.
    """

    def __init__(
        self,
        url: str,
        *,
        headers: Headers | None = None,
        origin: str = "",
        subprotocols: Sequence[str] = (),
        deflate: Deflate | None = None,
        ssl_context: ssl.SSLContext | None = None,
        limits: Limits | None = None,
        open_timeout_s: float = 10.0,
    ) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"ws", "wss"} or not parts.hostname:
            raise ValueError(f"{url!r} is no WebSocket address; it begins with ws:// or wss:// and a host.")
        if parts.fragment or parts.username is not None:
            raise ValueError(f"A WebSocket address has no fragment and no user; send credentials in headers: {url!r}.")
        if ssl_context is not None and parts.scheme == "ws":
            raise ValueError(f"A TLS context was given for an address without TLS; write wss:// for {url!r}.")
        if origin and not is_origin(origin):
            raise ValueError(f"{origin!r} is no origin: scheme://host or scheme://host:port, without a path, or null.")
        self.url = url
        self.limits = limits or Limits()
        self._secure = parts.scheme == "wss"
        self._host, self._port = parts.hostname, parts.port or (443 if self._secure else 80)
        self._authority = parts.netloc
        self._target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        self._headers, self._origin = headers, origin
        self._subprotocols = tuple(subprotocols)
        self._deflate = deflate
        self._ssl_context = ssl_context
        self._open_timeout_s = open_timeout_s
        self._connection: ClientConnection | None = None

    async def open(self, inbox: Inbox | None = None) -> ClientConnection:
        """A new connection. Raises OSError (TimeoutError among them) and Rejected.

        With an inbox of the caller's, messages are put there, and the end of the connection does not end it.
        """
        loop = asyncio.get_running_loop()
        connection: ClientConnection | None = None
        headers = self._headers() if callable(self._headers) else self._headers or {}
        asked = build_request(
            self._authority,
            self._target,
            origin=self._origin,
            subprotocols=self._subprotocols,
            headers=tuple(headers.items()),
            deflate=self._deflate,
        )
        try:
            async with asyncio.timeout(self._open_timeout_s):
                _transport, connection = await loop.create_connection(
                    lambda: ClientConnection(asked, self.url, self.limits, inbox),
                    self._host,
                    self._port,
                    ssl=self._tls(),
                )
                await connection.opened
        except TimeoutError:
            raise TimeoutError(f"{self.url} did not answer the handshake in {self._open_timeout_s:g} s.") from None
        finally:
            # one that opened may have been closed by the server in the same breath: that is its user's to see
            if connection is not None and not connection.has_opened:
                connection.abort("the handshake did not come about")
        return connection

    def _tls(self) -> ssl.SSLContext | None:
        if not self._secure:
            return None
        return self._ssl_context or ssl.create_default_context()

    async def __aenter__(self) -> ClientConnection:
        if self._connection is not None:
            raise RuntimeError(f"The connection to {self.url} is open already; make another Connector for a second.")
        self._connection = await self.open()
        return self._connection

    async def __aexit__(self, *_: object) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            await connection.close()


connect = Connector
