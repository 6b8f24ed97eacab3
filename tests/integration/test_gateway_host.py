"""What is the gateway host's own: its limits, its farewells, and that nothing holds up its loop."""

from __future__ import annotations

import json
import signal
import socket as sockets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

import pytest
from gateway_host import GatewayHost
from websockets.exceptions import ConnectionClosed

from app.desk import ACCEPTING_MAX
from app.session import FRAME_MAX
from reef import streams
from reef.contracts.events import Token

if TYPE_CHECKING:
    from conftest import FreePort, Socket, WebAndGateway
    from services import RedisServer

PATIENCE_S = 15.0
TextOf = Callable[[list[dict[str, Any]]], str]


@pytest.fixture
def web(lone_gateway: WebAndGateway) -> Iterator[WebAndGateway]:
    """A gateway with no job left over."""
    lone_gateway.stage.clear()
    yield lone_gateway
    lone_gateway.stage.clear()


def farewell(line: Socket) -> tuple[int, str]:
    """With which code and words the connection is closed."""
    try:
        while True:
            line.get(PATIENCE_S)
    except ConnectionClosed as closed:
        return (closed.rcvd.code, closed.rcvd.reason) if closed.rcvd else (1006, "")


@contextmanager
def nothing_accepted(web: WebAndGateway) -> Iterator[None]:
    """The threads that accept chats are all busy."""
    done = threading.Event()
    threads = web.gateway.threads
    for _ in range(ACCEPTING_MAX):
        web.gateway.loop.loop.call_soon_threadsafe(threads.accept, done.wait)
    try:
        yield
    finally:
        done.set()


@contextmanager
def standing_still(broker: RedisServer) -> Iterator[None]:
    """The broker answers nothing, and keeps what it is asked."""
    assert broker.process is not None
    broker.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        broker.process.send_signal(signal.SIGCONT)


def wait_for(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_one_client_too_many_is_told_so(web: WebAndGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over the limit a connection is opened to be closed with 1013 and a reason; the others go on."""
    with web.socket() as first:
        first.send(type="ping")
        first.until("pong")
        monkeypatch.setattr("app.gateway.host.SOCKETS_MAX", 1)
        with web.socket() as second:
            assert farewell(second) == (1013, "This server holds 1 connections, its limit.")
        first.send(type="ping")
        assert first.get() == {"type": "pong"}


def test_a_gateway_that_ends_says_so(web: WebAndGateway, pick_port: FreePort) -> None:
    """Its clients are told to come again, in the words of the web process."""
    ending = GatewayHost(web.settings, pick_port())
    with web.socket(at=ending.url) as line:
        line.send(type="watch", session_id="anything")
        line.send(type="ping")
        line.until("pong")
        closing = threading.Thread(target=ending.close)
        closing.start()
        assert farewell(line) == (1001, "The server restarts; come again.")
        closing.join()


def test_a_frame_that_cannot_be_one_closes_the_connection(web: WebAndGateway) -> None:
    """A text that is too long in any encoding is not even read to its end: 1009."""
    with web.socket() as line:
        with suppress(ConnectionClosed):  # it may hear that before it has sent all
            line.connection.send("x" * (4 * FRAME_MAX + 1))
        assert farewell(line)[0] == 1009


def test_a_client_that_asks_without_reading_is_let_go(web: WebAndGateway) -> None:
    """When its answers pile up it is told that it sends faster than it reads; nothing is kept for it."""
    relay = web.gateway.reef.relay
    bad = json.dumps({"type": "chat", "persona_id": "x" * 200, "message": "x"})
    with web.socket(max_queue=1, ping_interval=None) as line:
        wait_for(lambda: relay.listening == 1)
        with suppress(ConnectionClosed):  # it may hear that it was let go while it sends
            while relay.listening:
                line.connection.send(bad)
        assert farewell(line) == (1013, "You send faster than you read.")
        wait_for(lambda: relay.listening == 0)


def test_frames_are_handled_in_their_order(web: WebAndGateway) -> None:
    """What needs no waiting does not overtake what does."""
    with web.socket() as line:
        with nothing_accepted(web):
            line.send(type="chat", persona_id="alice", message="first", session_id="ordered")
            line.send(type="ping")
            with web.socket() as other:
                other.send(type="ping")
                assert other.get() == {"type": "pong"}, "who accepts nothing still answers others"
        assert [line.get()["type"], line.get()["type"]] == ["queued", "pong"]


def test_a_chat_that_waited_in_vain_is_refused(web: WebAndGateway, monkeypatch: pytest.MonkeyPatch) -> None:
    """When more comes in than can be written down, who waited long enough is told to come again."""
    monkeypatch.setattr("app.gateway.host.ACCEPT_WAIT_S", 0.0)
    with web.socket() as line:
        line.send(type="chat", persona_id="alice", message="too late")
        answer = line.get()
    assert (answer["code"], answer["retry_after_s"] > 0) == ("overloaded", True)
    assert web.stage.waiting() == []


def test_a_client_that_left_while_it_was_answered_leaves_nothing_behind(web: WebAndGateway) -> None:
    """Its run is accepted; the channels it would have followed are not."""
    relay = web.gateway.reef.relay
    with nothing_accepted(web):
        with web.socket() as line:
            line.send(type="watch", session_id="left")
            line.send(type="chat", persona_id="alice", message="and goodbye", session_id="left")
            wait_for(lambda: bool(relay._topics))
            line.connection.socket.shutdown(sockets.SHUT_RDWR)
        wait_for(lambda: relay.listening == 0)
    wait_for(lambda: len(web.stage.waiting()) == 1)
    with web.socket() as line:
        line.send(type="ping")
        line.until("pong")
    wait_for(lambda: not relay._topics)


@pytest.fixture
def patient(web: WebAndGateway, pick_port: FreePort, monkeypatch: pytest.MonkeyPatch) -> Iterator[GatewayHost]:
    """Another gateway, which would wait for the broker longer than a test does.

    It reads the stream of a run that has ended though the broker announces nothing yet.
    """
    monkeypatch.setattr("app.services.BROKER_TIMEOUT_S", 4 * PATIENCE_S)
    monkeypatch.setattr("app.session.SETTLED_S", 0.0)
    gateway = GatewayHost(web.settings, pick_port())
    yield gateway
    gateway.close()


def test_a_broker_that_stands_still_holds_up_nobody_who_does_not_need_it(
    web: WebAndGateway, patient: GatewayHost, shared_redis: RedisServer, text_of: TextOf
) -> None:
    """While one client's run cannot be read from its stream, others are answered; then it gets all of it."""
    with web.socket() as line:
        queued = line.chat()
        web.stage.take(queued["run_id"]).begin().say("one ", "two").done()
        line.until("done")
    with web.socket(at=patient.url) as resuming, web.socket(at=patient.url) as other:
        other.send(type="ping")
        other.until("pong")
        with standing_still(shared_redis):
            resuming.send(type="resume", run_id=queued["run_id"], last_seq=0)
            wait_for(lambda: bool(patient.reef.relay._topics))
            for _ in range(50):
                other.send(type="ping")
                assert other.get() == {"type": "pong"}
        assert text_of(resuming.until("done")) == "one two"


def test_a_stalled_client_costs_others_nothing_and_gets_everything(web: WebAndGateway, text_of: TextOf) -> None:
    """Of two that follow one run, one stops reading: the other is told at once, the first later, both everything."""
    words = [f"{n:05d}{'.' * 1_600} " for n in range(1_500)]
    with web.socket() as quick, web.socket(max_queue=1, ping_interval=None) as slow:
        queued = quick.chat()
        act = web.stage.take(queued["run_id"]).begin()
        slow.send(type="resume", run_id=queued["run_id"], last_seq=0)
        slow.until("typing")
        events = []
        for start in range(0, len(words), 100):
            batch = []
            for word in words[start : start + 100]:
                act.n += 1
                act.text += word
                seq = streams.number(act.claim.token, act.n)
                batch.append(Token(content=word, run_id=queued["run_id"], seq=seq))
            streams.append(web.stage.redis, batch)
            while len([event for event in events if event["type"] == "token"]) < start + 100:
                events.append(quick.get())
        act.done()
        assert text_of(events + quick.until("done")) == "".join(words)
        assert text_of(slow.until("done")) == "".join(words)
    assert 'coralreef_event_rereads_total{process="gateway",reason="slow"}' in web.metrics()
