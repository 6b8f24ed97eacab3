"""Hosts client sessions on the connections of a WebSocketServer, thousands in one loop.

Frames come in through the server's handler, in order, one at a time for each client. Events go out through the pump:
a woken listener is collected in the loop and sent from there; what has to be read from stream or records is read in a
thread first. A client that reads slowly is collected no further until it took what it was sent: what happens meanwhile
waits in its followers' bounded queues, or in the streams.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import threading
import time
from collections.abc import Callable

from app.desk import ACCEPT_WAIT_S, overloaded
from app.gateway.threads import Threads
from app.items import Item
from app.listener import Closed, Hopeless
from app.services import Services
from app.session import BLOCKING, ENDS, FRAME_MAX, INBOX_MAX, TRY_LATER, ClientSession, TooLong, full
from reef.contracts.frames import ChatFrame, Frame
from websocket_fabric import Connection, Limits, Message, WebSocketServer

log = logging.getLogger(__name__)

SOCKETS_MAX = 10_000
UTF8_BYTES_MAX = 4
READ_HERE_MAX = 8 * 1024
"""A longer frame is read in a thread: its JSON would hold up everybody for longer than a token may take."""
SLICE_CHARS = 64 * 1024
"""Sent to one client in one turn of the loop."""
OUTBOX_BYTES_MAX = 4 * 1024 * 1024
SEND_BUFFER_BYTES = 128 * 1024
"""The kernel would hold megabytes for a client that does not read; the run's stream holds them once for all."""
SILENT_S, ANSWER_S = 25.0, 20.0
"""A client that was silent this long is pinged, and cut off when it is still silent that much later; it can resume."""
FAILED = 1011


def limits() -> Limits:
    """What the gateway's server is to be made with."""
    return Limits(
        # the longest text that can still be answered as a frame too long; what is longer closes with 1009
        message_bytes_max=FRAME_MAX * UTF8_BYTES_MAX,
        # those over our limit are told so
        connections_max=SOCKETS_MAX + 100,
        inbox_messages_max=INBOX_MAX,
        # one slice, and an event that is longer than that (the board of a large reef)
        outbox_bytes_max=OUTBOX_BYTES_MAX,
        outbox_messages_max=SLICE_CHARS,
        socket_send_bytes=SEND_BUFFER_BYTES,
        idle_timeout_s=SILENT_S,
        ping_timeout_s=ANSWER_S,
    )


class Client:
    """One connection's session and what is on its way to it. Lives in the loop."""

    __slots__ = ("_draining", "_held", "_host", "_over", "_reading", "connection", "listener", "session")

    def __init__(self, host: Host, connection: Connection) -> None:
        self._host = host
        self.connection = connection
        self.listener = host.reef.relay.listen(self._woken)
        self.session = ClientSession(host.reef.desk, host.reef.ledger, self.listener)
        self._reading: asyncio.Future[list[Item] | None] | None = None
        self._draining: asyncio.Task[None] | None = None
        self._held: list[Item] = []
        self._over = False

    def _woken(self) -> None:
        self._host.wake(self)

    def pump(self) -> None:
        """Send what there is to tell, if the client takes it."""
        if self._over:
            return
        if self._host.reef.relay.closing:
            self._end(Closed())
        elif self._reading is not None or self._draining is not None or self._held:
            if self.listener.overflowed:
                self._end(Hopeless())
        elif self.connection.outbox is not None:
            self._draining = self._host.loop.create_task(self._drain())
        else:
            self._tell(functools.partial(self.listener.collect, may_read=False))

    def _tell(self, collect: Callable[[], list[Item] | None]) -> None:
        try:
            told = collect()
        except Exception as error:  # noqa: BLE001 - told to the client, and logged where it is no ending of ours
            self._end(error)
            return
        if told is None:
            self._reading = self._host.threads.read(functools.partial(self.listener.collect, may_read=True))
            self._reading.add_done_callback(self._was_read)
        elif told:
            self._send(told)

    def _was_read(self, reading: asyncio.Future[list[Item] | None]) -> None:
        self._reading = None
        if self._over or reading.cancelled():
            return
        self._tell(reading.result)
        again_s = self.listener.retry_at() - time.monotonic()
        if again_s < float("inf"):
            self._host.loop.call_later(max(again_s, 0.0), self.pump)
        self.pump()

    def _send(self, told: list[Item]) -> None:
        send, size = self.connection.send, 0
        for n, one in enumerate(told, 1):
            send(one.text)
            size += len(one.text)
            if size >= SLICE_CHARS and n < len(told):
                self._held = told[n:]
                self._host.loop.call_soon(self._go_on)
                return

    def _go_on(self) -> None:
        if self._over:
            return
        if self.connection.outbox is not None:
            self._draining = self._host.loop.create_task(self._drain())
            return
        held, self._held = self._held, []
        self._send(held)
        if not self._held:
            self.pump()

    async def _drain(self) -> None:
        try:
            await self.connection.drain()
        except ConnectionError:
            return  # it is closed; so is the listener, soon
        self._draining = None
        self._go_on()

    def _end(self, error: Exception) -> None:
        code, reason = ENDS.get(type(error), (FAILED, "Something went wrong here; come again."))
        if code == FAILED:
            log.error("a client cannot be told what it follows", exc_info=error)
        self.connection.close(code, reason)
        self.left()

    def left(self) -> None:
        """The connection is gone, or will be."""
        self._over, self._held = True, []
        if self._draining is not None:
            self._draining.cancel()
        self.listener.close()


class Host:
    """Made in the loop; one per process."""

    def __init__(self, reef: Services, threads: Threads) -> None:
        self.reef, self.threads = reef, threads
        self.loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._woken: list[Client] = []
        self._clients: dict[Client, None] = {}

    def install(self, server: WebSocketServer) -> None:
        """Serve the connections of this server."""
        server.on_connect(self._opened)
        server.on_message(self._said)
        server.on_close(self._closed)

    def close(self) -> None:
        """Tell every client to come again. The server is stopped after this, the parts are closed after that."""
        self.reef.relay.close()
        for client in tuple(self._clients):
            client.pump()

    def wake(self, client: Client) -> None:
        """Something may have to be sent to it. Called from any thread, with the relay's lock held."""
        if threading.get_ident() != self._loop_thread:
            self.loop.call_soon_threadsafe(client.pump)
            return
        if not self._woken:
            self.loop.call_soon(self._pump)
        self._woken.append(client)

    def _pump(self) -> None:
        woken, self._woken = self._woken, []
        for client in woken:
            client.pump()

    def _opened(self, connection: Connection) -> None:
        if len(self._clients) >= SOCKETS_MAX:
            connection.close(TRY_LATER, full(SOCKETS_MAX))
            return
        self.reef.counts.socket(1)
        connection.state = client = Client(self, connection)
        self._clients[client] = None

    def _closed(self, connection: Connection) -> None:
        client: Client | None = connection.state
        if client is not None:
            connection.state = None
            del self._clients[client]
            self.reef.counts.socket(-1)
            client.left()

    async def _said(self, message: Message) -> None:
        assert message.connection is not None  # noqa: S101 - for mypy: a message that came has one
        client: Client | None = message.connection.state
        if client is None:
            return
        session, data = client.session, message.data
        if len(data) > FRAME_MAX:
            session.receive(TooLong(FRAME_MAX))
            return
        frame = session.read(data) if len(data) <= READ_HERE_MAX else await self.threads.read(session.read, data)
        if isinstance(frame, ChatFrame):
            await self.threads.accept(_chat, session, frame, time.monotonic())
        elif isinstance(frame, BLOCKING):
            await self.threads.read(session.handle, frame)
        elif frame is not None:
            session.handle(frame)


def _chat(session: ClientSession, frame: Frame, asked_at: float) -> None:
    if time.monotonic() - asked_at > ACCEPT_WAIT_S:
        session.refuse(overloaded())
    else:
        session.handle(frame)
