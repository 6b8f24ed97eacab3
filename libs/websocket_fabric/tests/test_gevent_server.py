"""The gevent host: handlers that block, one greenlet a connection, hooks, stopping."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time

import gevent
import gevent.event
import pytest
from client_peers import free_port
from gevent_host import Host, connected, echo, frame, gevent_server, raw, run, until

from websocket_fabric import ConnectionClosed, Limits, Message, Refused, Rejected, Request, connect
from websocket_fabric.gevent_server import GeventConnection, GeventServer


def test_importing_the_library_does_not_import_gevent_and_the_host_patches_nothing() -> None:
    """A program that does not use the gevent host does not need gevent; one that does keeps its sockets."""
    code = (
        "import sys, socket, threading; before = socket.socket, threading.Thread.start; import websocket_fabric; "
        "assert 'gevent' not in sys.modules; import websocket_fabric.gevent_server; from gevent import monkey; "
        "assert not monkey.saved; assert before == (socket.socket, threading.Thread.start)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_a_handler_that_waits_holds_up_its_own_client_only() -> None:
    """Messages of one client are handled in order, one at a time; another client is answered meanwhile."""
    running: list[str] = []
    go_on = gevent.event.Event()

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def answer(message: Message) -> str:
            text = str(message.data)
            if text.startswith("slow"):
                running.append(text)
                assert len(running) == 1
                go_on.wait()
                gevent.sleep(0.01)
                running.remove(text)
            return text

    with gevent_server(prepare) as host:
        slow = raw(host.port)
        slow.sendall(frame("slow 1") + frame("slow 2") + frame("slow 3"))
        until(lambda: bool(running))
        assert run(host, "quick") == ["quick"]
        assert running == ["slow 1"]
        host.call(lambda _server: go_on.set())
        got = b""
        while len(got) < 24:
            got += slow.recv(100)
        assert got == b"\x81\x06slow 1\x81\x06slow 2\x81\x06slow 3"
        slow.close()


def test_what_a_waiting_handler_has_sent_leaves_while_it_waits() -> None:
    """An answer before it, and its own sends, are not held back until it is done."""

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def answer(message: Message) -> str | None:
            if message.data == "wait":
                connected(message).send("begun")
                gevent.sleep(3600)
            return "answered"

    with gevent_server(prepare, limits=Limits(shutdown_timeout_s=0.05)) as host:
        client = raw(host.port)
        client.sendall(frame("one") + frame("wait"))
        got = b""
        while len(got) < 17:
            got += client.recv(100)
        assert got == b"\x81\x08answered\x81\x05begun"
        # stopping cuts it off after its deadline, handler and all
        host.stop()
        client.close()


def test_hooks_see_connections_come_and_go_and_may_refuse_them() -> None:
    """on_connect's message comes first; what it raises is the HTTP answer; on_close knows the code."""
    seen: list[object] = []

    def prepare(server: GeventServer) -> None:
        @server.on_connect
        def come(connection: object) -> None:
            assert isinstance(connection, GeventConnection)
            if connection.path == "/no":
                raise Refused(403, "Not you.")
            gevent.sleep(0.01)
            connection.state = connection.path
            connection.send("welcome")

        @server.on_close
        def go(connection: object) -> None:
            assert isinstance(connection, GeventConnection)
            seen.append((connection.state, connection.close_code))

    async def client(port: int) -> None:
        with pytest.raises(Rejected, match="403"):
            await connect(f"ws://127.0.0.1:{port}/no").open()
        async with connect(f"ws://127.0.0.1:{port}/yes") as connection:
            assert await connection.receive() == "welcome"
            await connection.close(4002)

    with gevent_server(prepare) as host:
        asyncio.run(client(host.port))
        until(lambda: bool(seen))
    assert seen == [("/yes", 4002)]


def test_a_broadcast_reaches_a_group_and_a_handlers_error_only_its_client() -> None:
    """Groups are joined by clients; one whose handler fails is closed with 1011, the others go on."""

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def answer(message: Message) -> None:
            if message.data == "fail":
                raise LookupError("a bug")
            if message.data == "join":
                connected(message).join("room")
                connected(message).send("joined")
            else:
                server.broadcast(message.data, "room")

    async def client(port: int) -> None:
        url = f"ws://127.0.0.1:{port}/"
        async with connect(url) as one, connect(url) as two, connect(url) as outside:
            for each in (one, two):
                each.send("join")
                assert await each.receive() == "joined"
            outside.send("fail")
            with pytest.raises(ConnectionClosed, match="1011"):
                await outside.receive()
            one.send("hello")
            assert [await one.receive(), await two.receive()] == ["hello", "hello"]

    with gevent_server(prepare) as host:
        asyncio.run(client(host.port))


def test_a_socket_that_was_accepted_elsewhere_is_adopted() -> None:
    """With its request, and the bytes that came after it."""
    ours, theirs = socket.socketpair()
    headers = {"host": "x", "upgrade": "websocket", "connection": "Upgrade", "sec-websocket-version": "13"}
    request = Request("/adopted", {**headers, "sec-websocket-key": "AAAAAAAAAAAAAAAAAAAAAA=="})
    with gevent_server(echo) as host, ours:
        ours.settimeout(20)
        host.call(lambda server: server.adopt(theirs, request, frame("early")))
        ours.sendall(frame("later"))
        got = b""
        while not got.endswith(b"\x81\x05later"):
            got += ours.recv(1000)
        assert got.startswith(b"HTTP/1.1 101 ")
        assert got.endswith(b"\r\n\r\n\x81\x05early\x81\x05later")


def test_stopping_lets_a_handler_answer_and_says_1001() -> None:
    """What was read is answered, then everybody is told to go; afterwards nobody is left."""

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def answer(message: Message) -> str:
            gevent.sleep(0.1)
            return "done"

    async def client(host: Host) -> None:
        async with connect(f"ws://127.0.0.1:{host.port}/") as connection:
            connection.send("work")
            while not host.server.counts.messages_in:
                await asyncio.sleep(0.005)
            stopping = threading.Thread(target=lambda: host.call(lambda server: server.stop()))
            stopping.start()
            assert await connection.receive() == "done"
            with pytest.raises(ConnectionClosed, match="1001"):
                await connection.receive()
            await asyncio.to_thread(stopping.join)
        assert not host.server.connections

    with gevent_server(prepare) as host:
        asyncio.run(client(host))


def test_serve_stops_gracefully_when_it_is_told_to() -> None:
    """SIGTERM: the client is told 1001, and the process ends with 0."""
    port = free_port()
    code = (
        "import sys; from websocket_fabric.gevent_server import GeventServer; "
        "server = GeventServer('127.0.0.1:' + sys.argv[1]); server.on_message(lambda message: message.data); "
        "server.serve()"
    )

    async def client(process: subprocess.Popen[bytes]) -> None:
        deadline_s = time.monotonic() + 20
        while True:
            try:
                connection = await connect(f"ws://127.0.0.1:{port}/").open()
                break
            except OSError:
                assert time.monotonic() < deadline_s
                await asyncio.sleep(0.02)
        connection.send("there")
        assert await connection.receive() == "there"
        process.terminate()
        with pytest.raises(ConnectionClosed, match="1001"):
            await connection.receive()

    with subprocess.Popen([sys.executable, "-c", code, str(port)]) as process:
        try:
            asyncio.run(client(process))
            assert process.wait(20) == 0
        finally:
            process.kill()


def test_what_it_cannot_do_is_refused_at_once() -> None:
    """Coroutines, TLS and bad addresses, with what to do instead."""
    server = GeventServer("nowhere")

    async def handler(message: Message) -> None: ...

    with pytest.raises(TypeError, match="coroutine function"):
        server.on_message(handler)
    with pytest.raises(ValueError, match="host:port"):
        server.start()
    with pytest.raises(ValueError, match="proxy"):
        GeventServer("127.0.0.1:1", tls=object())
    server.stop()
