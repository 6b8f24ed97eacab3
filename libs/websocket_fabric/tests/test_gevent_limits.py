"""The gevent host with clients that are slow, silent or too many: the rules that asyncio's has, too."""

from __future__ import annotations

import socket
import time

import gevent
import pytest
from gevent_host import connected, echo, frame, gevent_server, raw, run, until

from websocket_fabric import Gone, Limits, Message, Rejected
from websocket_fabric.gevent_server import GeventConnection, GeventServer

PIECE = "x" * 100_000


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


def test_a_slow_handshake_is_refused() -> None:
    """One that does not finish its request gets 408."""
    with gevent_server(echo, limits=Limits(handshake_timeout_s=0.1)) as host:
        hasty = socket.create_connection(("127.0.0.1", host.port))
        hasty.sendall(b"GET / HTTP/1.1\r\n")
        assert b" 408 " in hasty.recv(1000)
        hasty.close()


def test_silent_clients_are_pinged_and_cut_off() -> None:
    """A client that answers nothing is there no longer than its ping allows."""
    limits = Limits(idle_timeout_s=0.1, ping_timeout_s=0.1, close_timeout_s=0.1)
    with gevent_server(echo, limits=limits) as host:
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
