"""A WebSocket changes its process, seen from the web process, over real sockets."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from pathlib import Path

import pytest
from handing_over import ECHO, HELLO, KEY, PATIENCE_S, Far, Near, read, read_head, untouched

from app import handoff
from app.gateway import place
from reef.contracts import handover
from reef.contracts.handover import Taken
from websocket_fabric.handshake import accept_key


def test_a_client_is_served_at_the_other_end(far: Far, near: Near) -> None:
    """Its handshake is answered there, what it had sent already is not lost, and secrets stay behind."""
    client, environ = near.client(read_ahead=HELLO)
    assert near.hand_over(environ) == "handed_over"
    assert accept_key(KEY).encode() in read_head(client)
    assert read(client, len(ECHO)) == ECHO
    client.sendall(HELLO)
    assert read(client, len(ECHO)) == ECHO
    request = far.requests[0]
    assert request.target == "/ws?x=%20"
    assert (request.headers["x-client-address"], request.headers["x-request-id"]) == ("10.1.2.3", "req1")
    assert "secret" not in str(request)
    far.settle("adopted")


def test_many_at_once_over_a_few_connections(far: Far, near: Near) -> None:
    """More clients than connections: each is served, none waits for ever, and no connection is left over."""
    pairs = [near.client() for _ in range(3 * handoff.CONNECTIONS_MAX)]
    threads = [threading.Thread(target=near.gateway.hand_over, args=(environ, "many")) for _, environ in pairs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE_S)
    assert Counter(near.outcomes) == {"handed_over": len(pairs)}
    for client, _ in pairs:
        assert b" 101 " in read_head(client)
    assert near.gateway._kept.qsize() <= handoff.CONNECTIONS_MAX


def test_without_a_gateway_nothing_happens(near: Near) -> None:
    """Nobody there: it is said at once, and the client is as it was."""
    client, environ = near.client()
    began = time.monotonic()
    assert near.hand_over(environ) == "absent"
    assert time.monotonic() - began < handoff.HANDOVER_S
    assert untouched(client)
    assert near.gateway.report() is None


def test_a_gateway_that_is_full_or_stops_says_so(far: Far, near: Near) -> None:
    """Its words come back, and the client is as it was."""
    far.has_room = False
    client, environ = near.client()
    assert near.hand_over(environ) == "full"
    assert untouched(client)
    far.has_room = True
    far.do(far.adoption.stop)
    assert near.hand_over(environ) == "stopping", "over the connection that was kept"
    assert untouched(client)
    near.gateway.close()
    assert near.hand_over(environ) == "absent"
    assert not far.path.exists()


def test_a_frozen_gateway_never_touches_what_was_kept_from_it(
    far: Far, near: Near, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers too late: the client is served here, and when the gateway goes on it finds the offer withdrawn."""
    client, environ = near.client()
    thaw = far.hold()
    monkeypatch.setattr(handoff, "HANDOVER_S", 0.2)
    monkeypatch.setattr(handoff, "REST_S", PATIENCE_S)
    assert near.hand_over(environ) == "busy"
    assert near.hand_over(environ) == "busy", "left alone for a moment"
    assert not far.outcomes, "nobody waited until it went on"
    thaw.set()
    far.settle("withdrawn")
    assert untouched(client)
    near.gateway._rests_until = 0.0
    monkeypatch.setattr(handoff, "HANDOVER_S", PATIENCE_S)
    assert near.hand_over(environ) == "handed_over"
    assert b" 101 " in read_head(client)
    assert far.outcomes["withdrawn"] == 1, "the second was not offered"


def test_an_answer_that_came_in_the_last_moment_counts(tmp_path: Path, near: Near) -> None:
    """The gateway has answered and died, with a packet of ours unread: what it had taken is not served here as well."""
    listening = place.Listening(tmp_path / "run" / "gateway.sock")
    listening.socket.setblocking(True)
    client, environ = near.client()

    def answer_and_die() -> None:
        peer, _ = listening.socket.accept()
        peer.recv(1, socket.MSG_PEEK)
        peer.send(handover.encode(Taken()))
        peer.close()

    thread = threading.Thread(target=answer_and_die)
    thread.start()
    assert near.hand_over(environ) == "handed_over"
    thread.join(PATIENCE_S)
    assert client.recv(1) == b"", "closed at both ends: the client comes again"
    listening.close()


def test_a_restarted_gateway_is_found_behind_kept_connections(far: Far, near: Near) -> None:
    """Connections to the one that died are thrown away, not believed."""
    first, environ = near.client()
    assert near.hand_over(environ) == "handed_over"
    assert b" 101 " in read_head(first)
    far.call(far.adoption.close())
    second = Far(far.path)
    client, environ = near.client()
    assert near.hand_over(environ) == "handed_over"
    assert b" 101 " in read_head(client)
    client.close()
    second.close()


def test_what_cannot_be_passed_on_is_served_here(far: Far, near: Near) -> None:
    """No socket, a body, more headers than a packet holds."""
    for fields, outcome in (
        ({"gunicorn.socket": None}, "unfit"),
        ({"CONTENT_LENGTH": "5"}, "unfit"),
        ({"HTTP_X_LONG": "x" * handover.MESSAGE_BYTES_MAX}, "too_long"),
    ):
        client, environ = near.client(**fields)
        assert near.hand_over(environ) == outcome
        assert untouched(client)
    assert not far.outcomes


def test_an_answer_that_means_nothing_leaves_the_client_alone(tmp_path: Path, near: Near) -> None:
    """Whose the socket is cannot be known then: it is served by nobody here."""
    listening = place.Listening(tmp_path / "run" / "gateway.sock")
    listening.socket.setblocking(True)

    def answer() -> None:
        peer, _ = listening.socket.accept()
        with peer:
            peer.recv(handover.MESSAGE_BYTES_MAX)
            peer.send(b"{}")

    thread = threading.Thread(target=answer)
    thread.start()
    _, environ = near.client()
    assert near.hand_over(environ) == "unclear"
    thread.join(PATIENCE_S)
    listening.close()
