"""One connection of the client: what it sends, how it ends, what it refuses, and how much it lets wait."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from client_peers import Peer, free_port, peers

from websocket_fabric import (
    ClientConnection,
    ConnectionClosed,
    Limits,
    Message,
    OutboxFull,
    ReconnectingClient,
    Rejected,
    WebSocketServer,
    connect,
)

QUICK = Limits(idle_timeout_s=0.05, ping_timeout_s=0.1, close_timeout_s=0.2)


async def with_peer(
    script: Callable[[Peer], Awaitable[None]], use: Callable[[ClientConnection], Awaitable[None]], limits: Limits
) -> None:
    """Run `use` with a connection to a server that runs the script."""
    async with peers(script) as port, connect(f"ws://127.0.0.1:{port}/", limits=limits) as connection:
        await use(connection)


def run(
    script: Callable[[Peer], Awaitable[None]],
    use: Callable[[ClientConnection], Awaitable[None]],
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """As with_peer, in a loop of its own, and bounded."""
    asyncio.run(asyncio.wait_for(with_peer(script, use, limits), 20))


async def echo(peer: Peer) -> None:
    """Send back what comes."""
    while (data := await peer.receive()) is not None:
        peer.send(data)


def test_text_and_bytes_go_there_and_back_with_our_own_server() -> None:
    """The README's example: server and client of this library."""

    async def both() -> None:
        server = WebSocketServer(f"127.0.0.1:{free_port()}")

        @server.on_message
        async def answer(message: Message) -> str | bytes:
            return message.data

        await server.start()
        async with connect(f"ws://127.0.0.1:{server.port}/path?query=1") as connection:
            connection.send("Grüße")
            connection.send(b"\x00\xff")
            assert await connection.receive() == "Grüße"
            assert await connection.receive() == b"\x00\xff"
            assert 0 < await connection.ping() < 5
        await server.stop()

    asyncio.run(both())


def test_request_carries_path_headers_and_subprotocols() -> None:
    """Headers may be made for each connection; the server's choice of subprotocol is known."""
    asked = []

    async def script(peer: Peer) -> None:
        asked.append(peer.request)
        await peer.receive()

    async def both() -> None:
        async with peers(script) as port:
            url = f"ws://127.0.0.1:{port}/a?b=c"
            connector = connect(url, headers=lambda: {"Authorization": "Bearer one"}, subprotocols=["other", "chat"])
            async with connector as connection:
                assert connection.subprotocol == "chat"
            async with connect(url, headers={"X-Reef": "2"}) as connection:
                assert connection.subprotocol == ""
            assert asked[0].headers["host"] == f"127.0.0.1:{port}"

    asyncio.run(both())
    assert asked[0].target == "/a?b=c"
    assert asked[0].headers["authorization"] == "Bearer one"
    assert asked[1].headers["x-reef"] == "2"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://host/", "ws://"),
        ("ws:///path", "a host"),
        ("ws://host/#fragment", "fragment"),
        ("ws://user:secret@host/", "headers"),
    ],
)
def test_bad_addresses_are_refused_at_once(url: str, says: str) -> None:
    """Before anything is connected, with what to write instead."""
    with pytest.raises(ValueError, match=says):
        connect(url)


def test_an_origin_is_said_as_a_browser_would_say_it() -> None:
    """By a name of its own, by the client that reconnects, too; as a header it is refused with that name."""

    async def both() -> None:
        server = WebSocketServer(f"127.0.0.1:{free_port()}", origins=["https://chat.example"])
        server.on_message(lambda message: message.data)
        await server.start()
        url = f"ws://127.0.0.1:{server.port}/"
        async with ReconnectingClient(connect(url, origin="https://chat.example")) as client:
            client.send("let in")
            assert await client.receive() == "let in"
        with pytest.raises(Rejected, match="403"):
            await connect(url, origin="https://elsewhere.example").open()
        with pytest.raises(ValueError, match="see origin="):
            await connect(url, headers={"Origin": "https://chat.example"}).open()
        await server.stop()

    asyncio.run(both())
    with pytest.raises(ValueError, match="without a path"):
        connect("ws://127.0.0.1/", origin="https://chat.example/")


def test_iteration_ends_with_a_normal_close_and_raises_otherwise() -> None:
    """1000 and 1001 end a loop; any other code is an error that carries code and reason."""

    async def ending(peer: Peer) -> None:
        peer.send("one", "two")
        peer.close(4000 if peer.request.target == "/bad" else 1001, "why")
        await peer.receive()

    async def both() -> None:
        async with peers(ending) as port:
            async with connect(f"ws://127.0.0.1:{port}/") as connection:
                assert [message async for message in connection] == ["one", "two"]
            async with connect(f"ws://127.0.0.1:{port}/bad") as connection:
                assert await connection.receive() == "one"
                assert await connection.receive() == "two"
                with pytest.raises(ConnectionClosed, match="4000: why"):
                    await connection.receive()
                with pytest.raises(ConnectionClosed):
                    connection.send("too late")

    asyncio.run(both())


def test_a_broken_connection_is_1006_after_what_came_whole() -> None:
    """A reset: the message before it is received, then it is told."""

    async def script(peer: Peer) -> None:
        peer.send("whole")
        await peer.receive()
        peer.writer.write(b"\x81\x05ab")
        await peer.writer.drain()
        peer.reset()

    async def use(connection: ClientConnection) -> None:
        assert await connection.receive() == "whole"
        connection.send("now")
        with pytest.raises(ConnectionClosed, match="1006"):
            await connection.receive()

    run(script, use)


def test_a_server_that_breaks_the_protocol_is_told_and_left() -> None:
    """A masked frame from a server: 1002 goes back, and the client's user is told the same."""
    said: list[object] = []

    async def script(peer: Peer) -> None:
        peer.writer.write(b"\x81\x81\x00\x00\x00\x00a")
        while await peer.receive() is not None:
            pass
        said.append(peer.protocol.close_code)

    async def use(connection: ClientConnection) -> None:
        with pytest.raises(ConnectionClosed, match="1002"):
            await connection.receive()

    run(script, use)
    assert said == [1002]


def test_a_full_inbox_stops_reading_until_there_is_room() -> None:
    """A receiver that takes nothing holds the server up; afterwards everything comes, in order."""
    count, piece = 400, "x" * 65536
    sent: list[int] = []

    async def script(peer: Peer) -> None:
        for number in range(count):
            peer.send(f"{number} {piece}")
            await peer.writer.drain()
            sent.append(number)
        await peer.receive()

    async def use(connection: ClientConnection) -> None:
        before = -1
        while before != len(sent):
            before = len(sent)
            await asyncio.sleep(0.1)
        assert len(sent) < count
        for number in range(count):
            assert str(await connection.receive()).split(" ")[0] == str(number)

    run(script, use, Limits(inbox_messages_max=8))


def test_what_waits_to_be_sent_is_bounded() -> None:
    """A server that reads nothing: `send` refuses beyond the limit, `drain` waits, and all of it comes in the end."""
    go = asyncio.Event()
    got: list[int] = []

    async def script(peer: Peer) -> None:
        await go.wait()
        while (data := await peer.receive()) is not None:
            got.append(len(data))

    async def use(connection: ClientConnection) -> None:
        sent: list[int] = []

        async def flood() -> None:
            while True:
                connection.send(b"x" * 100_000)
                sent.append(100_000)
                await asyncio.sleep(0)

        with pytest.raises(OutboxFull, match="drain"):
            await flood()
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.drain(), 0.05)
        go.set()
        await connection.drain()
        await connection.close()
        assert got == sent

    run(script, use)


def test_a_silent_server_is_pinged_and_a_dead_one_cut_off() -> None:
    """Pongs keep a silent connection; without them it ends with 1006 and says why."""

    async def alive(peer: Peer) -> None:
        await peer.receive()

    async def dead(peer: Peer) -> None:
        peer.answer_pings = False
        await peer.receive()

    async def waits(connection: ClientConnection) -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(connection.receive(), 0.5)

    async def ends(connection: ClientConnection) -> None:
        with pytest.raises(ConnectionClosed, match="no sign of life"):
            await connection.receive()

    run(alive, waits, QUICK)
    run(dead, ends, QUICK)


def test_a_loop_that_was_held_up_does_not_take_its_server_for_dead() -> None:
    """It did not listen while the pong should have come: what it finds when it listens again counts."""

    async def script(peer: Peer) -> None:
        await peer.receive()

    async def use(connection: ClientConnection) -> None:
        while not connection._pinged_s:
            await asyncio.sleep(0)
        time.sleep(2 * QUICK.ping_timeout_s)
        assert await connection.ping() > 0

    run(script, use, QUICK)


def test_close_does_not_wait_for_ever() -> None:
    """A server that never answers the closing frame is cut off after close_timeout_s."""

    async def script(peer: Peer) -> None:
        await asyncio.sleep(20)

    async def use(connection: ClientConnection) -> None:
        await connection.close(4001, "done")
        assert (await connection.wait_closed()).code == 1006

    run(script, use, QUICK)


def test_two_receivers_are_one_too_many() -> None:
    """A second task that receives is told so; the first goes on."""

    async def use(connection: ClientConnection) -> None:
        first = asyncio.ensure_future(connection.receive())
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="Two tasks"):
            await connection.receive()
        connection.send("for the first")
        assert await first == "for the first"

    run(echo, use)


def test_a_refused_handshake_says_what_the_server_said() -> None:
    """Status, headers and body of an HTTP answer; what is no HTTP at all is a ConnectionError."""

    async def answering(answer: bytes) -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(answer)
            writer.close()

        port = free_port()
        async with await asyncio.start_server(serve, "127.0.0.1", port):
            await connect(f"ws://127.0.0.1:{port}/").open()

    with pytest.raises(Rejected) as rejected:
        asyncio.run(answering(b"HTTP/1.1 403 Forbidden\r\nX-Why: origin\r\n\r\nNot from there."))
    assert (rejected.value.status, rejected.value.headers["x-why"]) == (403, "origin")
    assert rejected.value.body == b"Not from there."
    with pytest.raises(ConnectionError, match="no WebSocket server"):
        asyncio.run(answering(b"SSH-2.0-OpenSSH_9.2\r\n"))
    with pytest.raises(ConnectionError, match="went away"):
        asyncio.run(answering(b""))


def test_a_server_that_does_not_answer_is_given_up() -> None:
    """The handshake has open_timeout_s, and the error names the address."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await reader.read(1000):
                pass
        finally:
            writer.close()

    async def both() -> None:
        port = free_port()
        async with await asyncio.start_server(silent, "127.0.0.1", port):
            with pytest.raises(TimeoutError, match=f"127.0.0.1:{port}"):
                await connect(f"ws://127.0.0.1:{port}/", open_timeout_s=0.1).open()

    asyncio.run(both())


def test_tls_is_checked_and_spoken(tmp_path: Path) -> None:
    """wss:// with a context that trusts the server's certificate works; with the default one it is refused."""
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-keyout", key, "-out", certificate, "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*command.split(), *files], check=True, capture_output=True)
    serving = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    serving.load_cert_chain(certificate, key)

    async def both() -> None:
        async with peers(echo, ssl=serving) as port:
            url = f"wss://127.0.0.1:{port}/"
            trusting = ssl.create_default_context(cafile=str(certificate))
            async with connect(url, ssl_context=trusting) as connection:
                connection.send("over TLS")
                assert await connection.receive() == "over TLS"
            with pytest.raises(ssl.SSLCertVerificationError):
                await connect(url).open()

    asyncio.run(both())
    with pytest.raises(ValueError, match="wss://"):
        connect("ws://127.0.0.1/", ssl_context=serving)
