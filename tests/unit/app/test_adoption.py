"""The gateway's socket: who may use it, and what comes over it that is no good."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from handing_over import HELLO, PATIENCE_S, Far, ask_once

from app.gateway import adoption, place
from app.handoff import Gateway
from reef.contracts import handover
from reef.contracts.handover import Ask, Handover, Refused, Report


def offer(**fields: Any) -> bytes:
    """A packet that hands over."""
    return handover.encode(Handover(target="/ws", headers={}, **fields))


def test_the_socket_is_for_this_user_alone_and_a_successor_keeps_its_own(tmp_path: Path) -> None:
    """Mode 0600; the end of one that was replaced does not take the other's socket away."""
    path = tmp_path / "run" / "gateway.sock"
    first = place.Listening(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = place.Listening(path)
    first.close()
    place.connect(path, 1.0).close()
    second.close()
    assert not path.exists()


def test_a_data_directory_with_a_long_path_has_its_socket_too(tmp_path: Path) -> None:
    """The kernel's limit of 107 bytes is that of a name, not of a place."""
    far = Far(tmp_path / ("long" * 40) / "run" / "gateway.sock")
    ask_once(far.path)
    assert far.path.is_socket()
    far.close()


@pytest.mark.parametrize(
    ("packet", "descriptors"),
    [
        (b"{", 0),
        (b"{", 1),
        (b"[]", 1),
        (offer(version=2), 1),
        (offer(), 0),
        (offer(), 2),
        (offer(), adoption.DESCRIPTORS_MAX + 1),
        (handover.encode(Ask()), 1),
        (offer(request_id="x" * handover.MESSAGE_BYTES_MAX), 1),
    ],
)
def test_what_is_malformed_is_refused_and_closed(far: Far, packet: bytes, descriptors: int) -> None:
    """Every descriptor that came with it is closed, its sender is hung up on, and others are served."""
    reader, writer = os.pipe()
    with place.connect(far.path, PATIENCE_S) as peer:
        socket.send_fds(peer, [packet], [writer] * descriptors)
        os.close(writer)
        answer = handover.decode_answer(peer.recv(handover.ANSWER_BYTES_MAX))
        assert isinstance(answer, Refused)
        assert answer.reason == "malformed"
        assert peer.recv(1) == b""
    assert os.read(reader, 1) == b"", "the gateway holds the other end open"
    os.close(reader)
    ask_once(far.path)


@pytest.mark.parametrize("make", [os.pipe, lambda: socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)])
def test_a_descriptor_that_is_no_stream_is_refused(far: Far, make: Callable[[], tuple[Any, Any]]) -> None:
    """A pipe and a datagram socket."""
    ends = [end if isinstance(end, int) else end.detach() for end in make()]
    with place.connect(far.path, PATIENCE_S) as peer:
        socket.send_fds(peer, [offer()], [ends[1]])
        answer = handover.decode_answer(peer.recv(handover.ANSWER_BYTES_MAX))
        assert isinstance(answer, Refused)
    for end in ends:
        os.close(end)


def test_more_peers_than_places_are_hung_up_on(far: Far) -> None:
    """The bound holds, and the places come back."""
    peers = [place.connect(far.path, PATIENCE_S) for _ in range(adoption.PEERS_MAX)]
    for peer in peers:
        peer.send(handover.encode(Ask()))
        assert isinstance(handover.decode_answer(peer.recv(handover.ANSWER_BYTES_MAX)), Report)
    with place.connect(far.path, PATIENCE_S) as one_more:
        assert one_more.recv(1) == b""
    for peer in peers:
        peer.close()
    gateway = Gateway(far.path)
    deadline = time.monotonic() + PATIENCE_S
    while gateway.report() is None:
        assert time.monotonic() < deadline
    gateway.close()


def test_messages_of_the_first_version_are_read() -> None:
    """The golden packets, and unknown fields beside them."""
    golden = Path(__file__).parents[2] / "contract" / "golden"
    request = handover.decode_request((golden / "handover.1.json").read_bytes())
    assert isinstance(request, Handover)
    assert request.first_bytes == HELLO
    read_back = msgspec.json.decode((golden / "handover.1.json").read_bytes())
    assert msgspec.json.decode(handover.encode(request)) == {k: v for k, v in read_back.items() if k != "later"}
