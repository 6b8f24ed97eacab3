"""The core, rule by rule: what is read, what is made of it, what is refused, and what it costs."""

from __future__ import annotations

import tracemalloc

import pytest
from protocol_ends import BINARY, CLOSE, CONTINUED, PING, PONG, TEXT, client, closed_with, sent, server
from raw_frames import KEY, frame, head, read_frames

from websocket_fabric.limits import Limits
from websocket_fabric.protocol import Protocol, message_frame

SMALL = Limits(message_bytes_max=1000, fragments_max=10)


# --- messages


@pytest.mark.parametrize("length", [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 128, 65535, 65536, 70000])
def test_a_message_of_any_length_is_read_on_both_sides(length: int) -> None:
    """Each form of the length, and each remainder of the masking key."""
    payload = bytes(at & 0x7F for at in range(length))
    for protocol, key in ((server(), KEY), (client(), None)):
        stream = frame(BINARY, payload, key=key) + frame(TEXT, payload, key=key)
        assert protocol.feed(stream) == [payload, payload.decode()]
        assert not protocol.closed


def test_messages_of_one_read_come_in_order() -> None:
    """Text, bytes, fragments, with a ping between the fragments."""
    protocol = server()
    stream = [
        frame(TEXT, b"one"),
        frame(BINARY, b"two"),
        frame(TEXT, "drei €".encode()[:6], fin=False),
        frame(PING, b"?"),
        frame(CONTINUED, "drei €".encode()[6:], fin=False),
        frame(CONTINUED),
        frame(TEXT, b"five"),
    ]
    assert protocol.feed(b"".join(stream)) == ["one", b"two", "drei €", "five"]
    assert sent(protocol) == [(PONG, b"?")]


def test_a_message_keeps_its_line_ends() -> None:
    """What is put together from pieces is not a text file."""
    protocol = server()
    text = "a\r\nb\rc\nd\r"
    stream = frame(TEXT, text.encode()[:2], fin=False) + frame(CONTINUED, text.encode()[2:])
    assert protocol.feed(stream) == [text]


def test_a_server_frame_is_not_masked_and_a_clients_is_each_with_a_key_of_its_own() -> None:
    """And both can be read by hand."""
    (plain,) = read_frames(server().message("née"))
    assert (plain.masked, plain.fin, plain.rsv, plain.opcode, plain.payload) == (False, True, 0, TEXT, "née".encode())
    one = client()
    stream = [one.message(bytes(8)) for _ in range(300)]
    assert {read.payload for read in read_frames(b"".join(stream))} == {bytes(8)}
    assert len({raw[2:6] for raw in stream}) > 290


@pytest.mark.parametrize("length", [0, 125, 126, 65535, 65536])
def test_a_message_is_framed_with_as_few_bytes_as_can_be(length: int) -> None:
    """A server's frame is the same from a connection and for a broadcast."""
    assert server().message(bytes(length)) == frame(BINARY, bytes(length), key=None) == message_frame(bytes(length))
    assert server().message("x" * length) == message_frame("x" * length)


# --- what breaks the protocol


@pytest.mark.parametrize("rsv", range(1, 8))
@pytest.mark.parametrize("opcode", [CONTINUED, TEXT, BINARY, PING, PONG, CLOSE])
def test_reserved_bits_close_with_1002_where_nothing_was_agreed(rsv: int, opcode: int) -> None:
    """Whatever the frame."""
    protocol = server()
    assert protocol.feed(frame(opcode, b"", rsv=rsv)) == []
    assert closed_with(protocol) == 1002


@pytest.mark.parametrize("opcode", [3, 4, 5, 6, 7, 11, 12, 13, 14, 15])
def test_reserved_opcodes_close_with_1002(opcode: int) -> None:
    """Data and control."""
    protocol = server()
    protocol.feed(frame(opcode, b"x"))
    assert closed_with(protocol) == 1002


@pytest.mark.parametrize("opcode", [TEXT, BINARY, PING, CLOSE])
def test_masks_are_the_clients(opcode: int) -> None:
    """A server refuses a frame without one, a client a frame with one."""
    for protocol, key in ((server(), None), (client(), KEY)):
        protocol.feed(frame(opcode, b"", key=key))
        assert closed_with(protocol) == 1002


@pytest.mark.parametrize(
    "stream",
    [
        frame(CONTINUED, b"x"),
        frame(CONTINUED, b"x", fin=False),
        frame(TEXT, b"a", fin=False) + frame(TEXT, b"b"),
        frame(TEXT, b"a", fin=False) + frame(BINARY, b"b", fin=False),
        frame(TEXT, b"a") + frame(CONTINUED, b"b"),
    ],
)
def test_fragments_out_of_turn_close_with_1002(stream: bytes) -> None:
    """A continuation of nothing, and a message inside another."""
    protocol = server()
    protocol.feed(stream)
    assert closed_with(protocol) == 1002


@pytest.mark.parametrize("opcode", [PING, PONG, CLOSE])
def test_control_frames_are_short_and_whole(opcode: int) -> None:
    """126 bytes are refused at the head, and so is a fragment of one."""
    for start in (head(opcode, 126), head(opcode, 0, fin=False)):
        protocol = server()
        protocol.feed(start[:2])
        assert closed_with(protocol) == 1002


@pytest.mark.parametrize(
    ("length", "width"), [(0, 2), (125, 2), (0, 8), (125, 8), (126, 8), (65535, 8), (1 << 63, 8), ((1 << 64) - 1, 8)]
)
def test_a_length_takes_as_few_bytes_as_can_be_and_has_no_sign(length: int, width: int) -> None:
    """RFC 6455, section 5.2: the minimal number of bytes MUST be used."""
    protocol = server()
    protocol.feed(head(BINARY, length, width=width) + KEY + bytes(min(length, 200)))
    assert closed_with(protocol) == 1002


def test_messages_before_the_violation_are_still_given() -> None:
    """They had come."""
    protocol = server()
    assert protocol.feed(frame(TEXT, b"good") + frame(TEXT, b"\xff") + frame(TEXT, b"late")) == ["good"]
    assert closed_with(protocol) == 1007
    assert not protocol.close_received


# --- text


@pytest.mark.parametrize("bad", [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"\x80"])
@pytest.mark.parametrize("fragmented", [False, True])
def test_what_is_no_utf8_closes_with_1007(bad: bytes, fragmented: bool) -> None:
    """Overlong forms, surrogates, beyond Unicode, cut off."""
    protocol = server()
    text = b"ok " + bad
    protocol.feed(frame(TEXT, text[:2], fin=False) + frame(CONTINUED, text[2:]) if fragmented else frame(TEXT, text))
    assert closed_with(protocol) == 1007


def test_bad_utf8_is_refused_at_its_first_wrong_byte() -> None:
    """In a frame that has not come whole, of a message that has not either; a code point may be cut in two."""
    good, bad = "κόσμε".encode(), b"\xf4\x90"
    raw = frame(TEXT, good + bad + bytes(500), fin=False)
    start = len(raw) - 500 - len(bad)
    protocol = server()
    for at in range(start + 1):
        protocol.feed(raw[at : at + 1])
        assert not protocol.closed, at
    protocol.feed(raw[start + 1 : start + 2])
    assert closed_with(protocol) == 1007


def test_bytes_need_not_be_utf8() -> None:
    """Nor does a ping."""
    protocol = server()
    assert protocol.feed(frame(BINARY, b"\xff\xfe") + frame(PING, b"\xff")) == [b"\xff\xfe"]
    assert sent(protocol) == [(PONG, b"\xff")]


# --- limits


@pytest.mark.parametrize("length", [1001, 65535, 65536, (1 << 63) - 1])
def test_a_message_too_long_is_refused_at_its_head(length: int) -> None:
    """Before any of it has come."""
    protocol = server(SMALL)
    protocol.feed(head(BINARY, length) + KEY)
    assert closed_with(protocol) == 1009
    assert "1000 bytes" in protocol.close_reason


def test_a_message_of_exactly_the_limit_is_taken_and_fragments_count_together() -> None:
    """One byte more is refused, at the head of the fragment that brings it."""
    protocol = server(SMALL)
    assert protocol.feed(frame(BINARY, bytes(1000))) == [bytes(1000)]
    assert protocol.feed(frame(BINARY, bytes(999), fin=False) + frame(CONTINUED, b"x")) == [bytes(999) + b"x"]
    assert protocol.feed(frame(BINARY, bytes(999), fin=False) + head(CONTINUED, 2) + KEY) == []
    assert closed_with(protocol) == 1009


def test_fragments_are_counted_even_if_they_are_empty() -> None:
    """Ten are allowed here; the eleventh closes."""
    protocol = server(SMALL)
    assert protocol.feed(frame(TEXT, fin=False) + frame(CONTINUED, fin=False) * 8 + frame(CONTINUED, b"x")) == ["x"]
    protocol.feed(frame(TEXT, fin=False) + frame(CONTINUED, fin=False) * 9)
    assert not protocol.closed
    protocol.feed(frame(CONTINUED))
    assert closed_with(protocol) == 1009
    assert "10 fragments" in protocol.close_reason


def test_by_default_four_megabytes_may_come_in_fragments_of_64_bytes() -> None:
    """As Autobahn's cases 9.3.1 and 9.4.1 do."""
    assert Limits().fragments_max >= 4 * 1024 * 1024 // 64


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_tiny_fragments_take_no_more_memory_than_their_bytes(opcode: int) -> None:
    """10,000 fragments of two bytes, and as many empty ones."""
    protocol = server(Limits(message_bytes_max=1 << 20, fragments_max=1 << 20))
    protocol.feed(frame(opcode, b"xy", fin=False))
    batch = (frame(CONTINUED, b"xy", fin=False) + frame(CONTINUED, fin=False)) * 1000
    tracemalloc.start()
    try:
        for _ in range(10):
            protocol.feed(batch)
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # as objects of their own the pieces would take 600,000
    assert held < 50_000
    (whole,) = protocol.feed(frame(CONTINUED, b"xy"))
    assert len(whole) == 20_004


def test_a_read_costs_its_own_bytes_and_not_those_before_it() -> None:
    """A message in a thousand reads is not copied anew with each: it grows in place, seldom by more than a read."""
    size, step = 4 << 20, 4096
    raw = head(BINARY, size) + KEY + bytes(size)
    protocol = server(Limits(message_bytes_max=64 << 20))
    copies = 0
    tracemalloc.start()
    try:
        for at in range(0, len(raw) - step, step):
            held, _ = tracemalloc.get_traced_memory()
            tracemalloc.reset_peak()
            assert protocol.feed(raw[at : at + step]) == []
            _, peak = tracemalloc.get_traced_memory()
            copies += peak - held > 8 * step
    finally:
        tracemalloc.stop()
    assert copies < size / step / 10
    assert [len(message) for message in protocol.feed(raw[-(len(raw) % step or step) :])] == [size]


def test_an_open_connection_that_waits_holds_little() -> None:
    """Less than a kilobyte each, after messages, fragments and pings."""
    read = frame(TEXT, b"hello") + frame(BINARY, b"a", fin=False) + frame(CONTINUED, bytes(900)) + frame(PING, b"?")
    limits = Limits()
    tracemalloc.start()
    try:
        protocols = [Protocol("server", limits) for _ in range(200)]
        for protocol in protocols:
            protocol.feed(read)
            protocol.out.clear()
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(protocols) < 1024
