"""The server that the fault tests abuse: `python fault_host.py HOST PROFILES`, one server for each profile of limits.

HOST is asyncio or gevent. Prints its ports as JSON and serves until SIGTERM, then stops gracefully. What a client wants
is in its messages:

    pour N BYTES      N numbered messages, sent without looking back
    stream N BYTES    the same, waiting each time until they were taken
    rest S            an answer after S seconds
    fate NAME         [code, reason] of the connection that asked for /NAME, of any server here, once it is gone
    counts            what the server counted, and how many connections it has
    anything else     comes back
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections.abc import Callable
from typing import Any

import gevent
import gevent.event
import uvloop

from websocket_fabric import Connection, Deflate, Gone, Limits, Message, WebSocketServer
from websocket_fabric.gevent_server import GeventServer

Profiles = dict[str, dict[str, Any]]


def numbered(number: int, size: int) -> str:
    """A message that says which it is."""
    return str(number).ljust(size, ".")


class Fates:
    """How connections ended, by the name they asked for."""

    def __init__(self, make: Callable[[], Any]) -> None:
        """`make` gives something with `set_result` that can be waited for."""
        self._ended: dict[str, Any] = {}
        self._make = make

    def of(self, name: str) -> Any:
        """Done when it is gone."""
        if name not in self._ended:
            self._ended[name] = self._make()
        return self._ended[name]

    def ended(self, connection: Connection) -> None:
        """The server's on_close."""
        fate = self.of(connection.path.lstrip("/"))
        if not fate.done():
            fate.set_result([connection.close_code, connection.close_reason])


def at_once(server: WebSocketServer, message: Message) -> Any:
    """What needs no waiting; None where it does."""
    connection = message.connection
    assert connection is not None
    match str(message.data).split(" "):
        case ["pour", count, size]:
            for number in range(int(count)):
                connection.send(numbered(number, int(size)))
            return ""
        case ["counts"]:
            return json.dumps({**server.counts.as_dict(), "connections": len(server.connections)})
        case ["stream" | "rest" | "fate", *_]:
            return None
    return message.data


def build(kind: type[WebSocketServer], profile: dict[str, Any]) -> WebSocketServer:
    """A server with the limits, origins and compression of this profile, on a port that may be taken."""
    settings = dict(profile)
    origins = settings.pop("origins", ())
    deflate = Deflate() if settings.pop("deflate", False) else None
    address = f"127.0.0.1:{random.randrange(20_000, 32_000)}"  # below the range of outgoing connections
    return kind(address, limits=Limits(**settings), origins=origins, deflate=deflate)


def for_tasks(profile: dict[str, Any], fates: Fates) -> WebSocketServer:
    """The asyncio host's."""
    server = build(WebSocketServer, profile)
    server.on_close(fates.ended)

    @server.on_message
    async def handle(message: Message) -> str | bytes | None:
        connection = message.connection
        assert connection is not None
        answer = at_once(server, message)
        if answer is not None:
            return answer or None
        match str(message.data).split(" "):
            case ["stream", count, size]:
                for number in range(int(count)):
                    connection.send(numbered(number, int(size)))
                    try:
                        await connection.drain()
                    except Gone:
                        break
            case ["rest", seconds]:
                await asyncio.sleep(float(seconds))
                return f"rested {seconds}"
            case ["fate", name]:
                return json.dumps(await fates.of(name))
        return None

    return server


def for_greenlets(profile: dict[str, Any], fates: Fates) -> WebSocketServer:
    """The gevent host's."""
    server = build(GeventServer, profile)
    server.on_close(fates.ended)

    @server.on_message
    def handle(message: Message) -> str | bytes | None:
        connection: Any = message.connection
        answer = at_once(server, message)
        if answer is not None:
            return answer or None
        match str(message.data).split(" "):
            case ["stream", count, size]:
                for number in range(int(count)):
                    connection.send(numbered(number, int(size)))
                    try:
                        connection.drain()
                    except Gone:
                        break
            case ["rest", seconds]:
                gevent.sleep(float(seconds))
                return f"rested {seconds}"
            case ["fate", name]:
                return json.dumps(fates.of(name).get())
        return None

    return server


class GreenFuture(gevent.event.AsyncResult):  # type: ignore[misc]
    """With asyncio's names."""

    def done(self) -> bool:
        """Whether there is a result."""
        return bool(self.ready())

    def set_result(self, result: Any) -> None:
        """This is it."""
        self.set(result)


async def serve_tasks(profiles: Profiles) -> None:
    """Serve until told to stop."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    servers: dict[str, WebSocketServer] = {}
    fates = Fates(asyncio.get_running_loop().create_future)
    for name, profile in profiles.items():
        while name not in servers:
            server = for_tasks(profile, fates)
            try:
                await server.start()
            except OSError:
                continue
            servers[name] = server
    print(json.dumps({name: server.port for name, server in servers.items()}), flush=True)
    await told.wait()
    await asyncio.gather(*(server.stop() for server in servers.values()))


def serve_greenlets(profiles: Profiles) -> None:
    """Serve until told to stop."""
    told = gevent.event.Event()
    watcher = gevent.signal_handler(signal.SIGTERM, told.set)
    servers: dict[str, Any] = {}
    fates = Fates(GreenFuture)
    for name, profile in profiles.items():
        while name not in servers:
            server: Any = for_greenlets(profile, fates)
            try:
                server.start()
            except OSError:
                continue
            servers[name] = server
    print(json.dumps({name: server.port for name, server in servers.items()}), flush=True)
    told.wait()
    gevent.joinall([gevent.spawn(server.stop) for server in servers.values()])
    watcher.cancel()


if __name__ == "__main__":
    wanted: Profiles = json.loads(sys.argv[2])
    if sys.argv[1] == "asyncio":
        uvloop.run(serve_tasks(wanted))
    else:
        serve_greenlets(wanted)
