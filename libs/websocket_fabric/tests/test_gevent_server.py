"""The gevent host: handlers that block, one greenlet a connection, and the rules that asyncio's has, too."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import gevent
import pytest
from client_peers import free_port
from gevent_host import Host, gevent_server

from websocket_fabric import ConnectionClosed, Gone, Limits, Message, Refused, Rejected, Request, connect
from websocket_fabric.gevent_server import GeventConnection, GeventServer

PIECE = "x" * 100_000


def connected(message: Message) -> GeventConnection:
    """Where it came from."""
    assert isinstance(message.connection, GeventConnection)
    return message.connection


def echo(server: GeventServer) -> None:
    """Send back what comes."""

    @server.on_message
    def answer(message: Message) -> str | bytes:
        return message.data


def run(host: Host, *sends: str) -> list[str | bytes]:
    """Send these, and give as many answers."""

    async def client() -> list[str | bytes]:
        async with connect(f"ws://127.0.0.1:{host.port}/") as connection:
            for text in sends:
                connection.send(text)
            return [await connection.receive() for _ in sends]

    return asyncio.run(asyncio.wait_for(client(), 20))


def raw(port: int, receive_bytes: int = 0) -> socket.socket:
    """A client that is nothing but a socket after its handshake."""
    sock = socket.socket()
    if receive_bytes:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
    sock.settimeout(20)
    sock.connect(("127.0.0.1", port))
    sock.sendall(
        b"GET / HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    answer = b""
    while not answer.endswith(b"\r\n\r\n"):
        answer += sock.recv(1)
    assert b" 101 " in answer
    return sock


def frame(text: str) -> bytes:
    """A short message of a client, masked with zeros."""
    return bytes((0x81, 0x80 | len(text))) + bytes(4) + text.encode()


def until(fact: Callable[[], bool]) -> None:
    """Wait for it."""
    deadline_s = time.monotonic() + 20
    while not fact():
        assert time.monotonic() < deadline_s
        time.sleep(0.005)


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

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def answer(message: Message) -> str:
            text = str(message.data)
            if text.startswith("slow"):
                running.append(text)
                assert len(running) == 1
                gevent.sleep(0.1)
                running.remove(text)
            return text

    with gevent_server(prepare) as host:
        slow = raw(host.port)
        slow.sendall(frame("slow 1") + frame("slow 2") + frame("slow 3"))
        until(lambda: bool(running))
        assert run(host, "quick") == ["quick"]
        assert running
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


@pytest.mark.parametrize("when_full", ["close", "drop_oldest", "block"])
def test_a_client_that_does_not_read_meets_the_stated_policy(when_full: str) -> None:
    """1013; or the oldest are dropped and counted; or its sender waits, and nothing of it is lost."""
    count = 100
    closed: list[int] = []
    lost: list[BaseException] = []

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def flood(message: Message) -> None:
            connection = connected(message)
            for number in range(count):
                connection.send(f"{number:03} {PIECE}")
                if when_full == "block":
                    try:
                        connection.drain()
                    except Gone as gone:
                        lost.append(gone)
                        raise

        @server.on_close
        def go(connection: object) -> None:
            assert isinstance(connection, GeventConnection)
            closed.append(connection.close_code)

    limits = Limits(when_full=when_full, socket_send_bytes=65536, close_timeout_s=0.2)  # type: ignore[arg-type]
    with gevent_server(prepare, limits=limits) as host:
        client = raw(host.port, receive_bytes=65536)
        client.sendall(frame("go"))
        if when_full == "close":
            until(lambda: closed == [1013])
        elif when_full == "drop_oldest":
            until(lambda: host.server.counts.messages_dropped > 50)
            numbers = _numbers(client, last=count - 1)
            assert numbers == sorted(numbers)
            assert len(numbers) + host.server.counts.messages_dropped == count
        else:
            time.sleep(0.1)
            assert host.server.counts.messages_out < count
            assert _numbers(client, last=count - 1) == list(range(count))
            assert host.server.counts.messages_dropped == 0
        client.close()
    assert lost == []


def _numbers(client: socket.socket, last: int) -> list[int]:
    """The numbers of the messages that come, until the last."""
    got, numbers = b"", []
    size = 10 + 4 + len(PIECE)
    while not numbers or numbers[-1] != last:
        got += client.recv(1 << 20)
        while len(got) >= size:
            numbers.append(int(got[10:13]))
            got = got[size:]
    return numbers


def test_a_waiting_drain_hears_that_its_client_is_gone() -> None:
    """The greenlet that waits for a slow client does not wait for a dead one."""
    heard: list[BaseException] = []

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def fill(message: Message) -> None:
            connection = connected(message)

            def wait() -> None:
                try:
                    while True:
                        connection.send(PIECE)
                        connection.drain()
                except Gone as gone:
                    heard.append(gone)

            gevent.spawn(wait)

    with gevent_server(prepare) as host:
        client = raw(host.port, receive_bytes=4096)
        client.sendall(frame("go"))
        until(lambda: host.server.counts.messages_out > 0)
        time.sleep(0.05)
        client.close()
        until(lambda: len(heard) == 1)


def test_silent_clients_are_pinged_and_slow_handshakes_refused() -> None:
    """A client that answers nothing is cut off; one that does not finish its request gets 408."""
    limits = Limits(handshake_timeout_s=0.1, idle_timeout_s=0.1, ping_timeout_s=0.1, close_timeout_s=0.1)
    with gevent_server(echo, limits=limits) as host:
        hasty = socket.create_connection(("127.0.0.1", host.port))
        hasty.sendall(b"GET / HTTP/1.1\r\n")
        assert b" 408 " in hasty.recv(1000)
        hasty.close()
        silent = raw(host.port)
        assert silent.recv(2)[0] == 0x89
        while silent.recv(1000):
            pass
        silent.close()
        until(lambda: host.server.counts.connections_closed == 1)


def test_connections_beyond_the_limit_are_refused() -> None:
    """503, and the place is free again when one leaves."""
    with gevent_server(echo, limits=Limits(connections_max=1)) as host:
        first = raw(host.port)
        with pytest.raises(Rejected, match="503"):
            run(host, "second")
        first.close()
        until(lambda: host.server.counts.connections_closed == 1)
        assert run(host, "third") == ["third"]


def test_pausing_holds_messages_back_and_resuming_delivers_them_in_order() -> None:
    """pause_reading in a handler sets aside what came with it; resume_reading goes on with that."""
    handled: list[str] = []
    paused: list[GeventConnection] = []

    def prepare(server: GeventServer) -> None:
        @server.on_message
        def take(message: Message) -> None:
            handled.append(str(message.data))
            if message.data == "pause":
                paused.append(connected(message))
                connected(message).pause_reading()
            gevent.sleep(0)

    with gevent_server(prepare) as host:
        client = raw(host.port)
        client.sendall(frame("a") + frame("pause") + frame("b") + frame("c"))
        until(lambda: bool(paused))
        client.sendall(frame("d"))
        time.sleep(0.05)
        assert handled == ["a", "pause"]
        host.call(lambda _server: paused[0].resume_reading())
        until(lambda: len(handled) == 5)
        assert handled == ["a", "pause", "b", "c", "d"]
        client.close()


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
