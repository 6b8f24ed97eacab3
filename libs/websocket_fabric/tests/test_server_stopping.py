"""How a server stops: what was asked is answered, everybody is told, nobody new is taken, who hangs is cut off."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import uvloop
from served import HOST, WAIT_S, Peer, free_port, make, running, until

from websocket_fabric import Data, Limits, Message


def test_stop_is_graceful() -> None:
    """A handler ends and is answered, everybody hears 1001, nobody new is let in; who does not leave is cut off."""

    async def main() -> None:
        server = make(Limits(shutdown_timeout_s=1.0))
        gate, closed = asyncio.Event(), []

        @server.on_message
        async def handle(message: Message) -> Data:
            await gate.wait()
            return message.data

        server.on_close(lambda connection: closed.append(connection.close_code))
        await server.start()
        port = server.port
        working, idle, deaf, half = [await Peer.open(server) for _ in range(3)] + [await Peer.raw(server)]
        working.send("answer me")
        await until(lambda: server.delivery.working)
        stopping = asyncio.create_task(server.stop())
        assert await idle.end() == 1001
        with pytest.raises(ConnectionError):
            await asyncio.open_connection(HOST, port)
        gate.set()
        assert await working.end() == 1001
        assert working.messages == ["answer me"]
        assert not stopping.done()
        async with asyncio.timeout(WAIT_S):
            await stopping
        assert closed == [1001] * 3
        assert not server.connections
        half.cut()
        # its goodbye was never answered; the socket is gone all the same
        assert await deaf.end() == 1001

    uvloop.run(main())


def test_a_client_that_leaves_while_the_server_stops() -> None:
    """Its goodbye and ours cross while a handler is at work; both are said, and its answer arrives."""

    async def main() -> None:
        server = make()
        gate = asyncio.Event()

        @server.on_message
        async def handle(message: Message) -> Data:
            await gate.wait()
            return message.data

        async with running(server):
            peer = await Peer.open(server)
            peer.send("answer me")
            await until(lambda: server.delivery.working)
            stopping = asyncio.create_task(server.stop())
            await asyncio.sleep(0)
            received = server.counts.bytes_in
            peer.writer.write(peer.protocol.close(3000))
            await until(lambda: server.counts.bytes_in > received)
            gate.set()
            assert await peer.end() == 1001
            assert peer.messages == ["answer me"]
            await stopping

    uvloop.run(main())


def test_stop_cancels_a_handler_that_never_ends() -> None:
    """After the deadline."""

    async def main() -> None:
        server = make(Limits(shutdown_timeout_s=0.1))
        cancelled = False

        @server.on_message
        async def handle(message: Message) -> None:
            nonlocal cancelled
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                cancelled = True
                raise

        await server.start()
        peer = await Peer.open(server)
        peer.send("x")
        await until(lambda: server.delivery.working)
        await server.stop()
        assert cancelled
        peer.cut()

    uvloop.run(main())


def test_serve_ends_well_on_a_signal() -> None:
    """SIGTERM: clients hear 1001, the process ends with 0."""

    async def main() -> None:
        port = free_port()
        here = Path(__file__).parent
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parent / "src"), *sys.path])}
        with subprocess.Popen([sys.executable, str(here / "echo_server.py"), str(port)], env=environment) as process:
            reader, writer = await _connect(port)
            peer = Peer(reader, writer)
            await peer.shake()
            process.send_signal(signal.SIGTERM)
            assert await peer.end() == 1001
            assert await asyncio.to_thread(process.wait, WAIT_S) == 0

    uvloop.run(main())


async def _connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    async with asyncio.timeout(WAIT_S):
        while True:
            try:
                return await asyncio.open_connection(HOST, port)
            except ConnectionError:
                await asyncio.sleep(0.02)
