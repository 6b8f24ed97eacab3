"""The server that the fault tests abuse: `python fault_host.py HOST PROFILES`, one server for each profile of limits.

Prints its ports as JSON and serves until SIGTERM, then stops gracefully. What a client wants is in its messages:

    pour N BYTES      N numbered messages, sent without looking back
    stream N BYTES    the same, waiting each time until they were taken
    rest S            an answer after S seconds
    fate NAME         [code, reason] of the connection that asked for /NAME, once it is gone
    counts            what the server counted, and how many connections it has
    anything else     comes back
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from typing import Any

import uvloop

from websocket_fabric import Connection, Deflate, Gone, Limits, Message, WebSocketServer


def numbered(number: int, size: int) -> str:
    """A message that says which it is."""
    return str(number).ljust(size, ".")


class Fates:
    """How connections ended, by the name they asked for."""

    def __init__(self) -> None:
        self._ended: dict[str, asyncio.Future[list[Any]]] = {}

    def of(self, name: str) -> asyncio.Future[list[Any]]:
        """Done when it is gone."""
        return self._ended.setdefault(name, asyncio.get_running_loop().create_future())

    def ended(self, connection: Connection) -> None:
        """The server's on_close."""
        fate = self.of(connection.path.lstrip("/"))
        if not fate.done():
            fate.set_result([connection.close_code, connection.close_reason])


def build(profile: dict[str, Any]) -> WebSocketServer:
    """A server with the limits, origins and compression of this profile."""
    settings = dict(profile)
    origins = settings.pop("origins", ())
    deflate = Deflate() if settings.pop("deflate", False) else None
    address = f"127.0.0.1:{settings.pop('port')}"
    server = WebSocketServer(address, limits=Limits(**settings), origins=origins, deflate=deflate)
    fates = Fates()
    server.on_close(fates.ended)

    @server.on_message
    async def handle(message: Message) -> str | bytes | None:
        connection = message.connection
        assert connection is not None
        match str(message.data).split(" "):
            case ["pour", count, size]:
                for number in range(int(count)):
                    connection.send(numbered(number, int(size)))
                return None
            case ["stream", count, size]:
                for number in range(int(count)):
                    connection.send(numbered(number, int(size)))
                    try:
                        await connection.drain()
                    except Gone:
                        break
                return None
            case ["rest", seconds]:
                await asyncio.sleep(float(seconds))
                return f"rested {seconds}"
            case ["fate", name]:
                return json.dumps(await fates.of(name))
            case ["counts"]:
                return json.dumps({**server.counts.as_dict(), "connections": len(server.connections)})
        return message.data

    return server


async def start(profiles: dict[str, dict[str, Any]]) -> dict[str, WebSocketServer]:
    """Every server on a port of its own, below the range of outgoing connections."""
    servers = {}
    for name, profile in profiles.items():
        while name not in servers:
            server = build({**profile, "port": random.randrange(20_000, 32_000)})
            try:
                await server.start()
            except OSError:
                continue
            servers[name] = server
    return servers


async def main(profiles: dict[str, dict[str, Any]]) -> None:
    """Serve until told to stop."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    servers = await start(profiles)
    print(json.dumps({name: server.port for name, server in servers.items()}), flush=True)
    await told.wait()
    await asyncio.gather(*(server.stop() for server in servers.values()))


if __name__ == "__main__":
    uvloop.run(main(json.loads(sys.argv[2])))
