"""The core, rule by rule: pings, pongs and closing frames, and how it closes."""

from __future__ import annotations

import pytest
from protocol_ends import CLOSE, CONTINUED, PING, PONG, TEXT, client, closed_with, sent, server
from raw_frames import KEY, closing, frame, read_frames

# --- control frames


def test_pings_are_answered_with_what_they_carry_and_pongs_are_not() -> None:
    """On both sides; a pong that nobody asked for is ignored."""
    for protocol, key in ((server(), KEY), (client(), None)):
        assert protocol.feed(frame(PING, b"", key=key) + frame(PING, bytes(125), key=key) + frame(PONG, key=key)) == []
        assert sent(protocol) == [(PONG, b""), (PONG, bytes(125))]
        assert {one.masked for one in read_frames(b"".join(protocol.out))} == {key is None}


def test_the_newest_pong_is_kept_for_the_host() -> None:
    """Which asks by it whether the other end lives, and how far away it is."""
    protocol = server()
    protocol.feed(frame(PONG, b"1") + frame(PONG, b"2") + frame(TEXT, b"x"))
    assert (protocol.pong, protocol.out) == (b"2", [])


def test_pongs_come_before_the_closing_frame_which_is_the_last() -> None:
    """So that a host can put its answers between them."""
    protocol = server()
    stream = [frame(PING, b"1"), frame(TEXT, b"x"), frame(PING, b"2"), frame(CLOSE, closing(1000)), frame(PING, b"3")]
    assert protocol.feed(b"".join(stream)) == ["x"]
    assert sent(protocol) == [(PONG, b"1"), (PONG, b"2"), (CLOSE, closing(1000))]


def test_a_ping_carries_125_bytes_at_most() -> None:
    """One more is the caller's mistake."""
    assert read_frames(client().ping(bytes(125)))[0].payload == bytes(125)
    with pytest.raises(ValueError, match="125 bytes, not 126"):
        client().ping(bytes(126))


# --- closing


@pytest.mark.parametrize("code", [*range(1000, 1004), *range(1007, 1015), 3000, 3999, 4000, 4999])
def test_a_closing_frame_is_answered_with_its_code(code: int) -> None:
    """Once, without its reason."""
    protocol = server()
    assert protocol.feed(frame(CLOSE, closing(code, "because"))) == []
    assert sent(protocol) == [(CLOSE, closing(code))]
    assert (protocol.closed, protocol.close_received, protocol.close_code) == (True, True, code)
    assert protocol.close_reason == "because"


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_code_that_may_not_be_sent_closes_with_1002(code: int) -> None:
    """Reserved, unassigned, out of range; and it cannot be sent from here."""
    protocol = server()
    protocol.feed(frame(CLOSE, closing(code)))
    assert closed_with(protocol) == 1002
    with pytest.raises(ValueError, match="no close code"):
        server().close(code)


def test_a_closing_frame_without_a_code_is_1005() -> None:
    """And is answered with an empty one."""
    protocol = server()
    protocol.feed(frame(CLOSE))
    assert sent(protocol) == [(CLOSE, b"")]
    assert protocol.close_code == 1005


def test_half_a_code_and_a_reason_that_is_no_text_are_refused() -> None:
    """1002 and 1007."""
    for payload, code in ((b"\x03", 1002), (closing(1000) + b"\xff", 1007)):
        protocol = server()
        protocol.feed(frame(CLOSE, payload))
        assert closed_with(protocol) == code == protocol.close_code


def test_until_it_ends_the_code_is_1006() -> None:
    """Which is what a lost connection leaves, whoever had begun to close."""
    protocol = server()
    protocol.feed(frame(TEXT, b"x"))
    assert protocol.close(1001)
    assert (protocol.close_code, protocol.closed, protocol.close_received) == (1006, False, False)


def test_what_comes_after_the_closing_frame_is_ignored() -> None:
    """In the same read, and in later ones: messages, pings, garbage."""
    protocol = server()
    assert protocol.feed(frame(TEXT, b"a") + frame(CLOSE, closing(1000)) + frame(TEXT, b"b") + frame(PING)) == ["a"]
    for late in (frame(TEXT, b"c"), frame(PING), b"\xff" * 100, frame(CLOSE, closing(1011))):
        assert protocol.feed(late) == []
    assert sent(protocol) == [(CLOSE, closing(1000))]
    assert protocol.close_code == 1000


def test_a_close_may_come_between_fragments() -> None:
    """The message is never finished."""
    protocol = server()
    assert protocol.feed(frame(TEXT, b"a", fin=False) + frame(CLOSE, closing(1001)) + frame(CONTINUED, b"b")) == []
    assert closed_with(protocol) == 1001


def test_messages_come_in_until_the_other_end_has_closed_too() -> None:
    """Its closing frame is not answered by a second one."""
    protocol = server()
    assert read_frames(protocol.close(1001, "bye"))[0].payload == closing(1001, "bye")
    assert protocol.feed(frame(TEXT, b"on its way") + frame(PING, b"!")) == ["on its way"]
    assert sent(protocol) == [(PONG, b"!")]
    protocol.out.clear()
    protocol.feed(frame(CLOSE, closing(1001)))
    assert protocol.out == []
    assert (protocol.closed, protocol.close_received, protocol.close_code) == (True, True, 1001)
    assert protocol.close() == b""


def test_a_violation_after_our_close_is_noted_and_not_answered() -> None:
    """Nothing follows a closing frame."""
    protocol = server()
    protocol.close()
    protocol.feed(frame(3))
    assert protocol.out == []
    assert (protocol.closed, protocol.close_received, protocol.close_code) == (True, False, 1002)


def test_a_long_reason_is_cut_between_characters() -> None:
    """123 bytes at most."""
    (raw,) = read_frames(server().close(4000, "€" * 100))
    assert raw.payload[2:].decode() == "€" * 41


def test_a_violation_is_told_to_the_peer() -> None:
    """Code and words, in a frame that it can read."""
    protocol = client()
    protocol.feed(frame(TEXT, b"x", key=KEY))
    (raw,) = read_frames(b"".join(protocol.out))
    assert raw.masked
    assert raw.payload == closing(1002, protocol.close_reason)
