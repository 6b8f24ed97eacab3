"""The servers that are measured beside each other, one a process: `python servers.py NAME PORT [echo|json|fan-out]`.

Each does the least its library allows: `echo` sends every message back, `json` decodes it and encodes an answer,
`fan-out` sends what anybody says to everybody else. None compresses, all take 20,000 connections, and all that are
asyncio run on uvloop. Nothing is listened to but loopback.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import sys
from collections.abc import Callable
from typing import Any

HOST = "127.0.0.1"
CONNECTIONS_MAX = 20_000
BACKLOG = 4096
SMALL_BUFFER_BYTES = 1024
"""picows reads into a buffer of this size for each connection; its default of 16 KB costs memory and gains nothing."""


def fabric_asyncio(port: int, what: str) -> None:
    """This library, hosted by uvloop."""
    from websocket_fabric import Limits, Message, WebSocketServer

    server = WebSocketServer(f"{HOST}:{port}", limits=Limits(connections_max=CONNECTIONS_MAX))

    async def echo(message: Message) -> str | bytes:
        return message.data

    reply = _json_reply() if what == "json" else None

    async def answer(message: Message) -> str:
        assert reply is not None
        return reply(message.data)

    async def spread(message: Message) -> None:
        server.broadcast(message.data)

    server.on_message({"echo": echo, "json": answer, "fan-out": spread}[what])
    server.serve()


def fabric_gevent(port: int, what: str) -> None:
    """This library, hosted by gevent."""
    from gevent import monkey

    monkey.patch_all()
    from websocket_fabric import Limits, Message
    from websocket_fabric.gevent_server import GeventServer

    server = GeventServer(f"{HOST}:{port}", limits=Limits(connections_max=CONNECTIONS_MAX))

    def echo(message: Message) -> str | bytes:
        return message.data

    _only_echo(what)
    server.on_message(echo)
    server.serve()


def picows(port: int, what: str) -> None:
    """picows as its documents show it: each frame is answered by a write of its own. Checks no text, joins nothing."""
    from picows import WSFrame, WSListener, WSTransport

    everybody: set[WSTransport] = set()

    class Echo(WSListener):  # type: ignore[misc]
        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            transport.send(frame.msg_type, frame.get_payload_as_memoryview())

    class Spread(WSListener):  # type: ignore[misc]
        def on_ws_connected(self, transport: WSTransport) -> None:
            everybody.add(transport)

        def on_ws_disconnected(self, transport: WSTransport) -> None:
            everybody.discard(transport)

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            said = frame.get_payload_as_bytes()
            for other in everybody:
                if other is not transport:
                    other.send(frame.msg_type, said)

    _picows(port, {"echo": Echo, "fan-out": Spread}[what])


def picows_coalesced(port: int, what: str) -> None:
    """picows for reading, and one write for all answers of a turn of the loop: what our server does by itself."""
    from picows import WSFrame, WSListener, WSTransport

    class Coalesced(WSListener):  # type: ignore[misc]
        def __init__(self) -> None:
            self.waiting: list[bytes] = []

        def on_ws_frame(self, transport: WSTransport, frame: WSFrame) -> None:
            if not self.waiting:
                asyncio.get_running_loop().call_soon(self.flush, transport.underlying_transport)
            payload = frame.get_payload_as_bytes()
            self.waiting.append(_frame(0x80 | int(frame.msg_type), payload))

        def flush(self, transport: asyncio.Transport) -> None:
            transport.write(b"".join(self.waiting))
            self.waiting.clear()

    _only_echo(what)
    _picows(port, Coalesced)


def _picows(port: int, listener: Callable[[], Any]) -> None:
    from picows import ws_create_server

    async def start() -> None:
        await ws_create_server(
            lambda _request: listener(), HOST, port, backlog=BACKLOG, read_buffer_init_size=SMALL_BUFFER_BYTES
        )

    _forever(start)


def websockets(port: int, what: str) -> None:
    """websockets, its asyncio server."""
    from websockets.asyncio.server import ServerConnection, broadcast, serve

    everybody: set[ServerConnection] = set()

    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def spread(connection: ServerConnection) -> None:
        everybody.add(connection)
        try:
            async for message in connection:
                broadcast(everybody - {connection}, message)
        finally:
            everybody.discard(connection)

    async def start() -> None:
        handler = {"echo": echo, "fan-out": spread}[what]
        await serve(handler, HOST, port, compression=None, backlog=BACKLOG).__aenter__()

    _forever(start)


def aiohttp(port: int, what: str) -> None:
    """aiohttp's WebSocketResponse."""
    from aiohttp import WSMsgType, web

    everybody: set[web.WebSocketResponse] = set()

    async def handle(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse(compress=False)
        await socket.prepare(request)
        everybody.add(socket)
        try:
            async for message in socket:
                if message.type is WSMsgType.TEXT:
                    if what == "echo":
                        await socket.send_str(message.data)
                    else:
                        for other in everybody - {socket}:
                            await other.send_str(message.data)
        finally:
            everybody.discard(socket)
        return socket

    async def start() -> None:
        app = web.Application()
        app.router.add_get("/", handle)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, HOST, port, backlog=BACKLOG).start()

    _forever(start)


def uvicorn(port: int, what: str) -> None:
    """A bare ASGI application under uvicorn, its sans-I/O WebSocket implementation."""
    import uvicorn as host

    async def echo(scope: Any, receive: Callable[[], Any], send: Callable[[Any], Any]) -> None:
        if scope["type"] != "websocket":
            return
        while True:
            event = await receive()
            if event["type"] == "websocket.connect":
                await send({"type": "websocket.accept"})
            elif event["type"] == "websocket.receive":
                await send({"type": "websocket.send", "text": event["text"]})
            else:
                return

    _only_echo(what)
    options: dict[str, Any] = {"loop": "uvloop", "ws": "websockets-sansio", "ws_per_message_deflate": False}
    host.run(echo, host=HOST, port=port, backlog=BACKLOG, log_level="warning", lifespan="off", **options)


def flask_sock(port: int, what: str) -> None:
    """flask-sock on gunicorn with one gevent worker, as its documents recommend."""
    from gevent import monkey

    monkey.patch_all()
    from flask import Flask
    from flask_sock import Sock
    from gunicorn.app.base import BaseApplication

    app = Flask("peer")
    everybody: set[Any] = set()

    def serve(connection: Any) -> None:
        everybody.add(connection)
        try:
            while True:
                message = connection.receive()
                if what == "echo":
                    connection.send(message)
                else:
                    for other in everybody - {connection}:
                        other.send(message)
        finally:
            everybody.discard(connection)

    Sock(app).route("/")(serve)

    class Server(BaseApplication):  # type: ignore[misc]
        def load_config(self) -> None:
            self.cfg.set("bind", f"{HOST}:{port}")
            self.cfg.set("worker_class", "gevent")
            self.cfg.set("worker_connections", CONNECTIONS_MAX)
            self.cfg.set("backlog", BACKLOG)
            self.cfg.set("loglevel", "warning")

        def load(self) -> Flask:
            return app

    Server().run()


SERVERS: dict[str, Callable[[int, str], None]] = {
    "fabric-asyncio": fabric_asyncio,
    "fabric-gevent": fabric_gevent,
    "picows": picows,
    "picows-coalesced": picows_coalesced,
    "websockets": websockets,
    "aiohttp": aiohttp,
    "uvicorn": uvicorn,
    "flask-sock": flask_sock,
}


def _json_reply() -> Callable[[str | bytes], str]:
    """A chat frame in, a token event out, both JSON, by way of typed values."""
    import msgspec

    class Chat(msgspec.Struct, tag="chat"):
        content: str
        persona_id: str

    class Token(msgspec.Struct, tag="token"):
        content: str
        persona_id: str

    decoder, encoder = msgspec.json.Decoder(Chat), msgspec.json.Encoder()

    def reply(data: str | bytes) -> str:
        chat = decoder.decode(data)
        return encoder.encode(Token(chat.content, chat.persona_id)).decode()

    return reply


def _frame(first: int, payload: bytes) -> bytes:
    size = len(payload)
    if size < 126:
        return bytes((first, size)) + payload
    if size < 65536:
        return bytes((first, 126)) + size.to_bytes(2, "big") + payload
    return bytes((first, 127)) + size.to_bytes(8, "big") + payload


def _only_echo(what: str) -> None:
    if what != "echo":
        raise SystemExit(f"This server has no {what}; it is measured with echo only.")


def _forever(start: Callable[[], Any]) -> None:
    import uvloop

    async def run() -> None:
        await start()
        await asyncio.Event().wait()

    uvloop.run(run())


def main() -> None:
    """Serve until killed."""
    if len(sys.argv) not in (3, 4) or sys.argv[1] not in SERVERS:
        raise SystemExit(f"usage: python servers.py NAME PORT [echo|json|fan-out]; NAME is of {', '.join(SERVERS)}")
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    logging.disable(logging.ERROR)  # clients that leave without a word are part of the measuring
    SERVERS[sys.argv[1]](int(sys.argv[2]), sys.argv[3] if len(sys.argv) == 4 else "echo")


if __name__ == "__main__":
    main()
