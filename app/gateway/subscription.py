"""How the gateway hears Redis: one raw socket in its loop, parsed by hiredis, all replies of one read taken at once.

RESP2, because there a connection that subscribes can do nothing else, which is all it does. A connection that is lost,
refused or silent is made anew, and everything subscribed again: followers then read from the streams what they missed.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import threading
from typing import Any

import hiredis
from redis import SSLConnection, UnixDomainSocketConnection
from redis.connection import parse_url

from app.subscription import BACKOFF_S, CONNECT_TIMEOUT_S, PAUSED, PING_EVERY_S, READ_TIMEOUT_S, Command, Subscription

log = logging.getLogger(__name__)


class _Link(asyncio.Protocol):
    """One connection to Redis."""

    def __init__(self, subscription: LoopSubscription) -> None:
        self._subscription = subscription
        self._reader = hiredis.Reader()
        self._transport: Any = None
        self._loop = asyncio.get_running_loop()
        self.heard_at = self._loop.time()
        self.answered = False
        """Whether Redis took what we said."""
        self.over: asyncio.Future[Exception] = self._loop.create_future()
        """Why it ended, once it did."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """asyncio's."""
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """asyncio's."""
        if self.over.done():
            return
        self.heard_at = self._loop.time()
        replies: list[Any] = []
        try:
            self._reader.feed(data)
            replies.extend(iter(self._reply, False))
        except hiredis.HiredisError as error:
            self.end(error)
        if replies:
            self.answered = self._subscription.connected = True
            self._subscription._hear(replies)

    def _reply(self) -> Any:
        reply = self._reader.gets()
        if isinstance(reply, hiredis.ReplyError):
            raise reply
        return reply

    def connection_lost(self, error: Exception | None) -> None:
        """asyncio's."""
        self.end(error or ConnectionError("it closed the connection"))

    def write(self, commands: list[Command]) -> None:
        """Send commands."""
        if not self.over.done():
            self._transport.write(b"".join([_packed(command) for command in commands]))

    def look(self) -> None:
        """Once in a while: is it still there?"""
        if self._loop.time() - self.heard_at > READ_TIMEOUT_S:
            self.end(TimeoutError(f"it was silent for {READ_TIMEOUT_S:g} s"))
        else:
            self.write([("PING",)])

    def end(self, error: Exception) -> None:
        """Give this connection up."""
        if not self.over.done():
            self.over.set_result(error)
        self.hang_up()

    def hang_up(self) -> None:
        """Close it at once."""
        self.over.cancel()
        if self._transport is not None:
            self._transport.abort()


class LoopSubscription(Subscription):
    """Made in the loop; all else may be called from any thread."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self._address: dict[str, Any] = parse_url(redis_url)  # type: ignore[no-untyped-call]
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._link: _Link | None = None
        self._flushing = False
        self._task: asyncio.Task[None] | None = None

    def _start(self) -> None:
        self._loop.call_soon_threadsafe(self._begin)

    def _begin(self) -> None:
        if not self.closing:
            self._task = self._loop.create_task(self._keep_connected(), name="relay-reader")

    def flush(self) -> None:
        """Tell Redis about the channels wanted and left since the last time, soon and all at once."""
        if self._flushing or not self._pending:
            return
        self._flushing = True
        if threading.get_ident() == self._loop_thread:
            self._loop.call_soon(self._write)
        else:
            self._loop.call_soon_threadsafe(self._write)

    def _write(self) -> None:
        self._flushing = False
        link = self._link
        with self._hearer.lock:
            if link is None:
                self._pending.clear()
                return  # once connected again, every channel that is wanted is subscribed to
            commands = self._due()
        link.write(commands)

    def close(self) -> None:
        """Hang up for good."""
        self.closing = True
        if self._task is None:
            return
        if threading.get_ident() == self._loop_thread:
            self._task.cancel()
        elif not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._task.cancel)

    async def _keep_connected(self) -> None:
        failures = 0
        while not self.closing:
            link = _Link(self)
            try:
                await self._connect(link)
                await self._listen(link)
            except (OSError, hiredis.HiredisError) as error:
                if link.answered:
                    failures = 0
                if failures == 0:
                    log.warning(PAUSED, error)
            finally:
                self.connected = False
                self._link = None
                link.hang_up()
            await asyncio.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    async def _connect(self, link: _Link) -> None:
        address, kind = self._address, self._address.get("connection_class")
        async with asyncio.timeout(CONNECT_TIMEOUT_S):
            if kind is UnixDomainSocketConnection:
                await self._loop.create_unix_connection(lambda: link, address["path"])
                return
            host, port = address.get("host", "localhost"), address.get("port", 6379)
            tls = _tls(address) if kind is SSLConnection else None
            await self._loop.create_connection(lambda: link, host, port, ssl=tls)

    async def _listen(self, link: _Link) -> None:
        """Until the connection is over. Raises why it is."""
        with self._hearer.lock:
            commands = self._anew()
        self._link = link
        link.write([*self._credentials(), *commands])
        while True:
            await asyncio.wait([link.over], timeout=PING_EVERY_S)
            if link.over.done():
                raise link.over.result()
            link.look()

    def _credentials(self) -> list[Command]:
        name, password = self._address.get("username", ""), self._address.get("password", "")
        if not (name or password):
            return []
        return [("AUTH", name, password) if name else ("AUTH", password)]


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]
    return packed


def _tls(address: dict[str, Any]) -> ssl.SSLContext:
    """The context that redis-py makes of the same URL."""
    options = {name: value for name, value in address.items() if name.startswith("ssl_")}
    asked = SSLConnection(**options)  # type: ignore[no-untyped-call]
    context = ssl.create_default_context()
    context.check_hostname = asked.check_hostname
    context.verify_mode = asked.cert_reqs
    if asked.certfile or asked.keyfile:
        context.load_cert_chain(asked.certfile, asked.keyfile, asked.certificate_password)
    if asked.ca_certs or asked.ca_path or asked.ca_data:
        context.load_verify_locations(asked.ca_certs, asked.ca_path, asked.ca_data)
    return context
