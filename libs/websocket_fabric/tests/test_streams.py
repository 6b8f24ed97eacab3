"""Any stream of frames, in any reads: what is heard is what was written, and what the `websockets` package hears."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from peer_protocol import peer_hears
from streams import CLOSE, DATA, PONG, READS, Stream, agreement, cut, listen, spoilt, streams

from websocket_fabric.deflate import Deflate
from websocket_fabric.handshake import (
    Refused,
    Request,
    RequestReader,
    ResponseReader,
    accept,
    build_request,
    check_response,
    parse_request,
)
from websocket_fabric.limits import Limits
from websocket_fabric.protocol import Protocol

BYTES_MAX = 1 << 20
LIMITS = Limits(message_bytes_max=BYTES_MAX)

CONTROL_BYTES_MAX = 125
"""RFC 6455, section 5.5. The `websockets` package holds control frames to the limit of messages, too."""
LONG_LENGTH = "a length in more bytes than it needs, or negative"
TASTE = {
    # it looks at a frame's text when that is whole, and its limit at its head
    "text that is not UTF-8": {(1007, 0)},
    # one closing frame, two mistakes
    "bad close code": {(1002, 1007)},
    # it counts its limit before the key has come, and looks at a frame's turn when that is whole
    "any": {(0, 1009), (1002, 0), (1002, 1009)},
}
"""Our code and that of `websockets` where they differ with reason, by our words."""

OPTIONS = st.builds(
    Deflate,
    level=st.sampled_from([1, 6, 9]),
    window_bits=st.integers(9, 15),
    memory_level=st.sampled_from([1, 5, 9]),
    context_takeover=st.booleans(),
    peer_window_bits=st.integers(9, 15),
    peer_context_takeover=st.booleans(),
    message_bytes_min=st.sampled_from([0, 30]),
)


def end(*, server: bool, takeover: bool | None, limits: Limits = LIMITS) -> Protocol:
    """One end of a connection."""
    deflate = None if takeover is None else agreement(takeover)
    return Protocol("server" if server else "client", limits, deflate=deflate)


@settings(max_examples=80, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from([None, False, True]), READS)
def test_what_is_heard_is_what_was_written(
    data: st.DataObject, server: bool, takeover: bool | None, sizes: list[int]
) -> None:
    """Both roles, with and without deflate, in any reads: messages, pongs and the closing code."""
    stream: Stream = data.draw(streams(masked=server, takeover=takeover))
    told = listen(end(server=server, takeover=takeover), cut(stream.raw, sizes))
    assert told.messages == stream.messages
    pongs = [(PONG, ping) for ping in stream.pings]
    assert told.answers == pongs + ([(CLOSE, stream.ended.to_bytes(2, "big"))] if stream.ended else [])
    assert (told.ended, told.received) == (stream.ended, bool(stream.ended))


@settings(max_examples=120, deadline=None)
@given(st.data(), st.booleans(), st.sampled_from([None, False, True]), READS, st.sampled_from([50, 1000, BYTES_MAX]))
def test_a_spoilt_stream_is_heard_alike_in_any_reads(
    data: st.DataObject, server: bool, takeover: bool | None, sizes: list[int], bytes_max: int
) -> None:
    """What is wrong, and where, does not depend on how the bytes come."""
    raw = data.draw(spoilt(data.draw(streams(masked=server, takeover=takeover)).raw))
    limits = Limits(message_bytes_max=bytes_max, fragments_max=4)
    whole = listen(end(server=server, takeover=takeover, limits=limits), [raw])
    pieces = listen(end(server=server, takeover=takeover, limits=limits), cut(raw, sizes))
    # the words for data that is both no deflate stream and no text may differ, the code does not
    for told in (whole, pieces):
        told.answers = [(opcode, answer[:2] if opcode == CLOSE else answer) for opcode, answer in told.answers]
        assert all(len(message) <= bytes_max for message in told.messages)
    assert pieces == whole


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([None, False, True]))
def test_websockets_hears_the_same(data: st.DataObject, takeover: bool | None) -> None:
    """A good stream, with and without deflate."""
    stream: Stream = data.draw(streams(masked=True, takeover=takeover))
    told = listen(end(server=True, takeover=takeover), [stream.raw])
    peer = peer_hears(stream.raw, takeover=takeover, bytes_max=BYTES_MAX)
    assert (told.messages, told.ended, not told.received and bool(told.ended)) == (
        peer.messages,
        peer.ended,
        peer.broken,
    )
    assert [answer for opcode, answer in told.answers if opcode == PONG] == peer.pings


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([CONTROL_BYTES_MAX, 1000, BYTES_MAX]))
def test_websockets_finds_the_same_wrong(data: st.DataObject, bytes_max: int) -> None:
    """A spoilt stream: the same messages before it, the same code, but where we are stricter or it is."""
    raw = data.draw(spoilt(data.draw(streams(masked=True, takeover=None)).raw))
    protocol = end(server=True, takeover=None, limits=Limits(message_bytes_max=bytes_max))
    told = listen(protocol, [raw])
    peer = peer_hears(raw, takeover=None, bytes_max=bytes_max)
    # a longer form of a length is nothing to it
    if protocol.close_reason == LONG_LENGTH or (told.ended, peer.ended) in TASTE.get(
        protocol.close_reason, TASTE["any"]
    ):
        assert told.messages == peer.messages[: len(told.messages)]
    elif peer.reason == "incomplete fragmented message":
        # it lets no closing frame come between fragments; RFC 6455, section 5.4, does
        assert (told.messages, bool(told.ended)) == (peer.messages, True)
    else:
        assert (told.messages, told.ended) == (peer.messages, peer.ended)


@settings(max_examples=60, deadline=None)
@given(st.none() | OPTIONS, st.none() | OPTIONS, st.lists(DATA, max_size=6), READS)
def test_a_client_and_a_server_understand_each_other(
    at_client: Deflate | None, at_server: Deflate | None, messages: list[str | bytes], sizes: list[int]
) -> None:
    """Whatever each of them wants of deflate: they agree on something, and every message arrives, both ways."""
    asked = build_request("a.example", deflate=at_client)
    read = parse_request(asked.request)
    assert read is not None
    accepted = accept(read[0], deflate=at_server)
    answer = ResponseReader().feed(accepted.response)
    assert answer is not None
    agreed = check_response(asked, answer[0])
    assert (agreed.deflate is None) == (accepted.deflate is None) == (at_client is None or at_server is None)
    client = Protocol("client", LIMITS, deflate=agreed.deflate)
    server = Protocol("server", LIMITS, deflate=accepted.deflate)
    for one, other in ((client, server), (server, client)):
        raw = b"".join(one.message(message) for message in messages)
        assert listen(other, cut(raw, sizes)).messages == messages
    server.feed(client.close(4000, "done"))
    client.feed(b"".join(server.out))
    assert client.close_code == server.close_code == 4000
    assert server.close_reason == "done"


HEAD = (
    b"GET /chat HTTP/1.1\r\nHost: a.example\r\nOrigin: https://a.example\r\nX-Long: " + b"a" * 60 + b"\r\n\r\n\x81\x00"
)


@settings(max_examples=100, deadline=None)
@given(spoilt(HEAD) | st.just(HEAD), READS, st.sampled_from([60, 16_384]))
def test_a_request_is_read_alike_in_any_reads(raw: bytes, sizes: list[int], bytes_max: int) -> None:
    """Good or spoilt: the same request and the same bytes after it, or the same refusal."""
    limits = Limits(handshake_bytes_max=bytes_max, handshake_headers_max=3)

    def outcome(reads: list[bytes]) -> tuple[Request, bytes] | tuple[int, str] | None:
        reader = RequestReader(limits)
        try:
            for at, read in enumerate(reads):
                if done := reader.feed(read):
                    return done[0], done[1] + b"".join(reads[at + 1 :])
        except Refused as refused:
            return refused.status, refused.reason
        return None

    assert outcome(cut(raw, sizes)) == outcome([raw])
