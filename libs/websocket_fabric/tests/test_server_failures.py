"""Handlers and hooks that fail: their own client is told, it is logged and counted, and nobody else notices."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
import uvloop
from served import Peer, make, running, until

from websocket_fabric import Connection, Data, Limits, Message
from websocket_fabric.handshake import Rejected
from websocket_fabric.heads import BadHead


def said(caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """What this library logged: somebody else's thread may end, or its loop be collected, in this moment."""
    return [record for record in caplog.records if record.name.startswith("websocket_fabric.")]


@pytest.mark.parametrize("waits", [False, True])
def test_a_failing_handler_closes_its_connection_only(waits: bool, caplog: pytest.LogCaptureFixture) -> None:
    """With 1011, in the log, counted; what was answered before arrives, what comes after is dropped."""

    async def main() -> None:
        server = make()

        @server.on_message
        async def handle(message: Message) -> Data:
            if waits:
                await asyncio.sleep(0)
            if message.data == "bad":
                raise LookupError("broken on purpose")
            return message.data

        async with running(server):
            peer, other = await Peer.open(server), await Peer.open(server)
            peer.send("good", "bad", "never")
            assert await peer.receive() == "good"
            assert await peer.end() == 1011
            other.send("good")
            assert await other.receive() == "good"
            assert server.counts.handler_errors == 1
            other.cut()

    with caplog.at_level(logging.ERROR):
        uvloop.run(main())
    assert "broken on purpose" in caplog.text


@pytest.mark.parametrize("waits", [False, True])
def test_an_answer_that_is_no_message_is_a_failure(waits: bool) -> None:
    """Not silence."""

    async def main() -> None:
        server = make()

        @server.on_message
        async def handle(message: Message) -> Any:
            if waits:
                await asyncio.sleep(0)
            return 5

        async with running(server):
            peer = await Peer.open(server)
            peer.send("x")
            assert await peer.end() == 1011

    uvloop.run(main())


async def _awaits_what_is_cancelled() -> None:
    """As a handler does whose helper was cancelled by somebody else."""
    helper: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    asyncio.get_running_loop().call_soon(helper.cancel)
    await helper


@pytest.mark.parametrize("run", [uvloop.run, asyncio.run])
@pytest.mark.parametrize("how", ["at once", "later", "second", "itself", "itself, begun"])
def test_a_handler_that_ends_cancelled_has_failed(how: str, run: Any, caplog: pytest.LogCaptureFixture) -> None:
    """Raised at once, after waiting, in a message that had to wait, or its own task cancelled: 1011, never silence."""

    async def main() -> None:
        server = make()

        @server.on_message
        async def handle(message: Message) -> str | bytes:
            match message.data:
                case "at once":
                    raise asyncio.CancelledError("on purpose")
                case "later" | "second":
                    await _awaits_what_is_cancelled()
                case "itself" | "itself, begun":
                    task = asyncio.current_task()
                    assert task is not None
                    task.cancel()
                    await asyncio.sleep(0)
                case "waits":
                    await asyncio.sleep(0)
            return message.data

        async with running(server):
            peer, other = await Peer.open(server), await Peer.open(server)
            if how == "itself, begun":
                # the task that stands ready has taken its first step before the handler takes its own
                other.send("good")
                assert await other.receive() == "good"
            peer.send(*["waits"] * (how == "second"), how, "never")
            assert await peer.end() == 1011
            assert peer.messages == ["waits"] * (how == "second")
            other.send("good")
            assert await other.receive() == "good"
            assert server.counts.handler_errors == 1
            other.cut()

    with caplog.at_level(logging.ERROR):
        run(main())
    assert [record.name for record in said(caplog)] == ["websocket_fabric.link"]
    assert "A handler failed" in caplog.text


@pytest.mark.parametrize("how", ["at once", "later", "plain"])
def test_hooks_that_end_cancelled_have_failed(how: str, caplog: pytest.LogCaptureFixture) -> None:
    """on_connect: 500; on_close: in the log; the server goes on."""

    async def ends(connection: Connection) -> None:
        if how == "later":
            await _awaits_what_is_cancelled()
        raise asyncio.CancelledError

    def ends_plainly(connection: Connection) -> None:
        raise asyncio.CancelledError

    async def main() -> None:
        opening, closing = make(), make()
        hook: Any = ends_plainly if how == "plain" else ends
        opening.on_connect(hook)
        closing.on_close(hook)
        async with running(opening), running(closing):
            with pytest.raises(Rejected, match="500"):
                await Peer.open(opening)
            peer = await Peer.open(closing)
            assert await peer.close() == 1000
            await until(lambda: len(said(caplog)) == 2)

    with caplog.at_level(logging.ERROR):
        uvloop.run(main())
    assert [record.message for record in said(caplog)] == ["on_connect failed", "on_close failed"]


def test_what_the_server_cancels_when_it_stops_has_not_failed(caplog: pytest.LogCaptureFixture) -> None:
    """A handler and an on_connect that never end: cut off after the deadline, without an error."""

    async def main() -> None:
        server = make(Limits(shutdown_timeout_s=0.05, close_timeout_s=0.1))

        @server.on_connect
        async def come(connection: Connection) -> None:
            if connection.path == "/waits":
                await asyncio.Event().wait()

        @server.on_message
        async def handle(message: Message) -> None:
            await asyncio.Event().wait()

        await server.start()
        peer, waiting = await Peer.open(server), asyncio.create_task(Peer.open(server, "/waits"))
        peer.send("x")
        await until(lambda: len(server.delivery.working) == 2)
        await server.stop()
        peer.cut()
        with pytest.raises((ConnectionError, BadHead)):
            await waiting
        assert server.counts.handler_errors == 0

    with caplog.at_level(logging.ERROR):
        uvloop.run(main())
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []
