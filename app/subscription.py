"""How this process hears Redis: which channels are wanted, which of them Redis confirmed, and what carries it all.

`Subscription` keeps the book for whatever carries; `ThreadSubscription` is the web process's, a thread (a greenlet
under gevent) that reads; the gateway's reads in its loop (app/gateway/subscription.py). Knows no run and no client.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import threading
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable
from itertools import groupby
from typing import Any, Literal, Protocol

import redis

log = logging.getLogger(__name__)

PING_EVERY_S = 1.0
READ_TIMEOUT_S = 6.0
"""A PING goes out every PING_EVERY_S: a connection that answers nothing this long is dead."""
CONNECT_TIMEOUT_S = 1.0
BACKOFF_S = (0.05, 0.1, 0.25, 0.5, 1.0)
SUBSCRIBE_MAX = 500
"""Channels named in one command."""
PAUSED = "live events pause: the broker does not answer (%s)"

Verb = Literal["SUBSCRIBE", "UNSUBSCRIBE"]
Command = tuple[str, ...]


class Hearer(Protocol):
    """Who is told what Redis says. All of it is called with `lock` held."""

    lock: threading.Lock

    def channels(self) -> list[str]:
        """Every channel that is wanted; the connection is a new one, so none of them is confirmed any more."""

    def confirmed(self, channel: str) -> None:
        """What is published there is heard from now on."""

    def announced(self, channel: str, body: bytes) -> None:
        """Something was published."""


class Subscription(ABC):
    """The book of channels. The hearer's lock guards it."""

    def __init__(self) -> None:
        self.connected = False
        self.closing = False
        self._hearer: Hearer
        self._pending: list[tuple[Verb, str]] = []
        self._awaiting: Counter[str] = Counter()

    def start(self, hearer: Hearer) -> None:
        """Connect, and tell it what is heard."""
        self._hearer = hearer
        self._start()

    @abstractmethod
    def _start(self) -> None: ...

    def want(self, channel: str) -> None:
        """Hear this channel (lock held; `flush` follows)."""
        self._pending.append(("SUBSCRIBE", channel))

    def leave(self, channel: str) -> None:
        """Hear it no more (lock held; `flush` follows)."""
        self._pending.append(("UNSUBSCRIBE", channel))

    @abstractmethod
    def flush(self) -> None:
        """Tell Redis about the channels wanted and left since the last time."""

    @abstractmethod
    def close(self) -> None:
        """Hang up for good."""

    # --- for what carries it

    def _due(self) -> list[Command]:
        """The commands that wait to be sent (lock held)."""
        pending, self._pending = self._pending, []
        self._awaiting.update(channel for verb, channel in pending if verb == "SUBSCRIBE")
        return [
            command
            for verb, group in groupby(pending, key=lambda one: one[0])
            for command in _commands(verb, [channel for _, channel in group])
        ]

    def _anew(self) -> list[Command]:
        """The commands that begin a new connection (lock held)."""
        self._pending.clear()
        channels = self._hearer.channels()
        self._awaiting = Counter(channels)
        return [("PING",), *_commands("SUBSCRIBE", channels)]

    def _hear(self, replies: Iterable[Any]) -> None:
        """Take what came, all of it under one lock."""
        hearer = self._hearer
        with hearer.lock:
            for reply in replies:
                if not isinstance(reply, list) or len(reply) < 3:
                    continue  # an answer to PING
                kind = reply[0]
                if kind == b"message":
                    hearer.announced(reply[1].decode(), reply[2])
                elif kind == b"subscribe":
                    self._confirm(reply[1].decode())

    def _confirm(self, channel: str) -> None:
        self._awaiting[channel] -= 1
        if self._awaiting[channel] > 0:
            return  # it was left and wanted again meanwhile: the last confirmation counts
        del self._awaiting[channel]
        self._hearer.confirmed(channel)


def _commands(verb: Verb, channels: list[str]) -> list[Command]:
    return [(verb, *channels[start : start + SUBSCRIBE_MAX]) for start in range(0, len(channels), SUBSCRIBE_MAX)]


class ThreadSubscription(Subscription):
    """A thread that reads and one that pings; whoever wants a channel writes."""

    def __init__(self, redis_url: str) -> None:
        super().__init__()
        self._connections = redis.ConnectionPool.from_url(
            redis_url,
            socket_timeout=READ_TIMEOUT_S,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            protocol=2,
            health_check_interval=0,
        )
        self._connection: Any = None
        self._write = threading.Lock()

    def _start(self) -> None:
        threading.Thread(target=self._read_loop, name="relay-reader", daemon=True).start()
        threading.Thread(target=self._ping_loop, name="relay-pinger", daemon=True).start()

    def flush(self) -> None:
        """Tell Redis about the channels wanted and left since the last time."""
        if not self._pending:
            return
        with self._write:
            with self._hearer.lock:
                connection = self._connection
                if connection is None:
                    self._pending.clear()
                    return  # once connected again, the reader subscribes to every channel that is wanted
                commands = self._due()
            self._send(connection, commands)

    def close(self) -> None:
        """Hang up for good."""
        self.closing = True
        connection = self._connection
        if connection is not None:
            _hang_up(connection)

    def _read_loop(self) -> None:
        failures = 0
        while not self.closing:
            connection: Any = self._connections.make_connection()
            try:
                connection.connect()
                self._begin(connection)
                failures = 0
                while not self.closing:
                    self._hear([connection.read_response()])
            except (redis.RedisError, OSError) as error:
                if not self.closing and failures == 0:
                    log.warning(PAUSED, error)
            finally:
                self.connected = False
                with self._hearer.lock:
                    self._connection = None
                connection.disconnect()
            time.sleep(BACKOFF_S[min(failures, len(BACKOFF_S) - 1)])
            failures += 1

    def _begin(self, connection: Any) -> None:
        with self._write:
            with self._hearer.lock:
                commands = self._anew()
                self._connection = connection
            for command in commands:
                connection.send_command(*command, check_health=False)
        self.connected = True

    def _ping_loop(self) -> None:
        while not self.closing:
            time.sleep(PING_EVERY_S)
            with self._write:
                connection = self._connection
                if connection is not None:
                    self._send(connection, [("PING",)])

    @staticmethod
    def _send(connection: Any, commands: list[Command]) -> None:
        try:
            for command in commands:
                connection.send_command(*command, check_health=False)
        except (redis.RedisError, OSError):
            _hang_up(connection)


def _hang_up(connection: Any) -> None:
    """Make the reader notice and start anew; only the reader itself may close a connection that it reads."""
    sock = connection._sock
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)
