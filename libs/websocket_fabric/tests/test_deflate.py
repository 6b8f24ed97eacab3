"""permessage-deflate: what is negotiated, and that nothing it carries costs more than its limit."""

from __future__ import annotations

import random
import tracemalloc
import zlib
from concurrent.futures import ThreadPoolExecutor

import pytest
from raw_frames import closing, frame, read_frames

from websocket_fabric.deflate import (
    Agreement,
    BadExtension,
    Compressor,
    Deflate,
    choose,
    compressor,
    confirm,
    offer,
    parse_extensions,
)
from websocket_fabric.limits import Limits
from websocket_fabric.protocol import Protocol

TEXT, BINARY, CONTINUED, CLOSE, PING = 1, 2, 0, 8, 9
WIDE = Deflate(window_bits=15, peer_window_bits=15, context_takeover=True, peer_context_takeover=True)
MIB = 1024 * 1024


def agreement(
    *, window_bits: int = 15, takeover: bool = True, peer_window_bits: int = 15, bytes_min: int = 0
) -> Agreement:
    """Both directions alike, where nothing else is said."""
    return Agreement(Deflate(message_bytes_min=bytes_min), "", window_bits, takeover, peer_window_bits, takeover)


def pack(payload: bytes, *, level: int = 6, window_bits: int = 15) -> bytes:
    """A message as RFC 7692 has it, by zlib alone."""
    packer = zlib.compressobj(level, zlib.DEFLATED, -window_bits)
    return (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]


def unpack(payload: bytes) -> bytes:
    """And back."""
    return zlib.decompressobj(-15).decompress(payload + b"\0\0\xff\xff")


def server(limits: Limits | None = None, *, takeover: bool = False) -> Protocol:
    """A server that agreed to inflate."""
    return Protocol("server", limits, deflate=agreement(takeover=takeover))


def closed_with(protocol: Protocol) -> int:
    """The code of the closing frame."""
    assert protocol.closed
    return int.from_bytes(read_frames(b"".join(protocol.out))[-1].payload[:2], "big")


# --- negotiation, the server's part


@pytest.mark.parametrize(
    ("header", "answer"),
    [
        ("permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits", "permessage-deflate"),
        ("permessage-deflate; client_max_window_bits=10", "permessage-deflate; client_max_window_bits=10"),
        ('permessage-deflate; client_max_window_bits="10"', "permessage-deflate; client_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=10", "permessage-deflate; server_max_window_bits=10"),
        ("permessage-deflate; server_max_window_bits=15", "permessage-deflate; server_max_window_bits=15"),
        ("permessage-deflate;server_no_context_takeover", "permessage-deflate; server_no_context_takeover"),
        ("permessage-deflate ; client_no_context_takeover", "permessage-deflate; client_no_context_takeover"),
        ("x-webkit-deflate-frame, permessage-deflate", "permessage-deflate"),
        ("permessage-deflate; mystery, permessage-deflate", "permessage-deflate"),
        (
            "permessage-deflate; server_max_window_bits=7, permessage-deflate; server_max_window_bits=9",
            "permessage-deflate; server_max_window_bits=9",
        ),
    ],
)
def test_the_first_offer_that_can_be_met_is_taken(header: str, answer: str) -> None:
    """By a server that wants nothing itself."""
    agreed = choose(header, WIDE)
    assert agreed is not None
    assert agreed.header == answer


@pytest.mark.parametrize(
    "parameters",
    [
        "server_no_context_takeover=1",
        "client_no_context_takeover=true",
        "server_no_context_takeover; server_no_context_takeover",
        "client_max_window_bits; client_max_window_bits=9",
        "server_max_window_bits",
        "server_max_window_bits=7",
        "server_max_window_bits=16",
        "server_max_window_bits=08",
        "server_max_window_bits=+9",
        "client_max_window_bits=0",
        "client_max_window_bits=x",
        "level=9",
    ],
)
def test_an_offer_with_bad_parameters_is_declined(parameters: str) -> None:
    """Twice, unknown, with a value it may not have: as RFC 7692, section 7.1, wants it."""
    assert choose(f"permessage-deflate; {parameters}", WIDE) is None


@pytest.mark.parametrize("header", [";", "a b", "a;", "a,,b", "a; b=", 'a; b="c', 'a; b="c d"', "é", "a; =b", ",a"])
def test_a_malformed_header_is_refused(header: str) -> None:
    """Not ignored."""
    with pytest.raises(BadExtension, match="malformed"):
        parse_extensions(header)


def test_a_server_asks_for_small_windows_and_no_memory_by_default() -> None:
    """Only of a client that says it can be asked; and it promises the same of its own messages."""
    agreed = choose("permessage-deflate; client_max_window_bits", Deflate())
    assert agreed is not None
    assert (agreed.window_bits, agreed.peer_window_bits) == (12, 12)
    assert not agreed.context_takeover
    assert not agreed.peer_context_takeover
    assert confirm(agreed.header, Deflate()) is not None
    plain = choose("permessage-deflate", Deflate())
    assert plain is not None
    assert (plain.window_bits, plain.peer_window_bits) == (12, 15)
    assert "client_max_window_bits" not in plain.header


def test_a_window_of_eight_bits_is_agreed_to_and_nothing_is_compressed() -> None:
    """zlib cannot compress so; a message may always be sent as it is."""
    agreed = choose("permessage-deflate; server_max_window_bits=8; client_max_window_bits=8", WIDE)
    assert agreed is not None
    assert (agreed.window_bits, agreed.peer_window_bits) == (8, 8)
    assert compressor(agreed) is None
    protocol = Protocol("server", deflate=agreed)
    assert not protocol.in_order
    assert read_frames(protocol.message("x" * 1000))[0].rsv == 0
    assert protocol.feed(frame(TEXT, pack(b"y" * 300, window_bits=9), rsv=4)) == ["y" * 300]


# --- negotiation, the client's part


def test_an_offer_says_what_is_wanted() -> None:
    """By default, and where nothing is."""
    assert offer(Deflate()) == (
        "permessage-deflate; client_max_window_bits=12; server_max_window_bits=12; client_no_context_takeover; "
        "server_no_context_takeover"
    )
    assert offer(WIDE) == "permessage-deflate; client_max_window_bits"


def test_a_client_does_as_it_is_told() -> None:
    """The server may take memory and window from it."""
    answer = "permessage-deflate; client_no_context_takeover; client_max_window_bits=9; server_max_window_bits=11"
    agreed = confirm(answer, WIDE)
    assert agreed is not None
    assert (agreed.window_bits, agreed.context_takeover) == (9, False)
    assert (agreed.peer_window_bits, agreed.peer_context_takeover) == (11, True)
    assert confirm("", WIDE) is None


@pytest.mark.parametrize(
    ("header", "options"),
    [
        ("permessage-deflate", None),
        ("permessage-bzip2", WIDE),
        ("permessage-deflate, permessage-deflate", WIDE),
        ("permessage-deflate; client_max_window_bits", WIDE),
        ("permessage-deflate; mystery", WIDE),
        ("permessage-deflate; server_no_context_takeover", Deflate()),
        ("permessage-deflate; server_no_context_takeover; server_max_window_bits=13", Deflate()),
        ("permessage-deflate; server_max_window_bits=12", Deflate()),
    ],
)
def test_a_client_refuses_what_it_did_not_offer(header: str, options: Deflate | None) -> None:
    """An extension, a parameter, or less than it had asked for."""
    with pytest.raises(BadExtension):
        confirm(header, options)


@pytest.mark.parametrize(
    "wrong",
    [
        {"level": 0},
        {"level": 10},
        {"window_bits": 8},
        {"window_bits": 16},
        {"memory_level": 0},
        {"peer_window_bits": 8},
        {"message_bytes_min": -1},
    ],
)
def test_options_that_zlib_does_not_have_are_refused(wrong: dict[str, int]) -> None:
    """When they are written down, not when the first message is compressed."""
    (name,) = wrong
    with pytest.raises(ValueError, match=name):
        Deflate(**wrong)


# --- messages


@pytest.mark.parametrize("takeover", [False, True])
@pytest.mark.parametrize("window_bits", [9, 12, 15])
def test_messages_come_out_as_they_went_in(takeover: bool, window_bits: int) -> None:
    """Text, bytes, noise, nothing; in one read and byte by byte."""
    agreed = agreement(window_bits=window_bits, takeover=takeover, peer_window_bits=window_bits)
    sender, reader = Protocol("client", deflate=agreed), Protocol("server", deflate=agreed)
    noise = random.Random(7).randbytes
    for data in ("", "a", "é€" * 4000, b"", noise(10), noise(70_000), "same " * 50, "same " * 50):
        assert reader.feed(sender.message(data)) == [data]
        raw = sender.message(data)
        assert [one for at in range(0, len(raw), 7) for one in reader.feed(raw[at : at + 7])] == [data]
    assert sender.in_order is takeover


def test_a_compressed_message_is_what_the_rfc_says() -> None:
    """The examples of RFC 7692, section 7.2.3, in both directions."""
    hello = bytes.fromhex("f248cdc9c90700")
    again = bytes.fromhex("f200110000")
    stored = bytes.fromhex("000500faff48656c6c6f00")
    final = bytes.fromhex("f348cdc9c9070000")
    two_blocks = bytes.fromhex("f248050000 00ffffcac9c90700".replace(" ", ""))
    for payload in (hello, stored, final, two_blocks):
        assert server().feed(frame(TEXT, payload, rsv=4)) == ["Hello"]
    assert server(takeover=True).feed(frame(TEXT, hello, rsv=4) + frame(TEXT, again, rsv=4)) == ["Hello", "Hello"]
    split = frame(TEXT, hello[:3], rsv=4, fin=False) + frame(CONTINUED, hello[3:])
    assert server().feed(split) == ["Hello"]
    (sent,) = read_frames(server().message("Hello"))
    assert (sent.rsv, sent.payload) == (4, hello), "from 0 bytes on means every message"
    remembering = server(takeover=True)
    assert [read_frames(remembering.message("Hello"))[0].payload for _ in range(2)] == [hello, again]


def test_short_messages_and_what_gets_no_shorter_go_as_they_are() -> None:
    """256 bytes by default; with memory even noise must go through the compressor."""
    noise = random.Random(3).randbytes(1000)
    alone = Protocol("server", deflate=agreement(takeover=False, bytes_min=256))
    assert [read_frames(alone.message(one))[0].rsv for one in ("x" * 255, "x" * 256, noise)] == [0, 4, 0]
    together = Protocol("server", deflate=agreement(takeover=True, bytes_min=256))
    assert [read_frames(together.message(one))[0].rsv for one in ("x" * 255, "x" * 256, noise)] == [0, 4, 4]


def test_without_memory_frames_may_be_left_out_and_shared() -> None:
    """Each is inflated by a reader that has seen no other; many connections have one compressor between them."""
    agreed = agreement(takeover=False)
    senders = [Protocol("server", deflate=agreed) for _ in range(3)]
    messages = ["".join(random.Random(seed).choices("abcd", k=500)) for seed in range(60)]
    frames = [senders[at % 3].message(one) for at, one in enumerate(messages)]
    assert [unpack(read_frames(one)[0].payload).decode() for one in frames] == messages
    assert compressor(agreed) is compressor(agreement(takeover=False))


def test_threads_share_a_compressor_without_mixing_their_messages() -> None:
    """Each message is made whole before the next begins."""
    shared = Compressor(6, 12, 5, takeover=False)
    payloads = [bytes([at]) * 20_000 + b"|" + bytes(range(256)) * 40 for at in range(64)]
    with ThreadPoolExecutor(4) as pool:
        packed = list(pool.map(shared.compress, payloads))
    assert [unpack(one) for one in packed] == payloads


def test_a_stream_that_ends_begins_anew() -> None:
    """A sender that flushes by ending its stream (BFINAL) can go on sending, and cannot end it endlessly."""
    ended = zlib.compress(b"Hello", wbits=-15)
    protocol = server(takeover=True)
    assert protocol.feed(frame(TEXT, ended + b"\0", rsv=4) * 3) == ["Hello"] * 3
    assert protocol.feed(frame(TEXT, ended * 5 + b"\0", rsv=4)) == ["Hello" * 5]
    protocol.feed(frame(TEXT, b"\x03\x00" * 1000, rsv=4))
    assert closed_with(protocol) == 1007


# --- what breaks the rules


def test_only_the_first_frame_of_a_message_says_that_it_is_compressed() -> None:
    """A continuation or a control frame with RSV1, and any frame with RSV2 or RSV3, close with 1002."""
    hello = pack(b"Hello")
    for stream in (
        frame(TEXT, hello[:3], rsv=4, fin=False) + frame(CONTINUED, hello[3:], rsv=4),
        frame(TEXT, b"a", fin=False) + frame(CONTINUED, b"b", rsv=4),
        frame(PING, b"", rsv=4),
        frame(CLOSE, closing(1000), rsv=4),
        frame(TEXT, hello, rsv=6),
        frame(BINARY, hello, rsv=5),
    ):
        protocol = server()
        assert protocol.feed(stream) == []
        assert closed_with(protocol) == 1002


def test_compressed_and_plain_messages_may_alternate() -> None:
    """With a ping between the fragments of a compressed one."""
    hello = pack(b"Hello")
    stream = [
        frame(TEXT, b"plain"),
        frame(BINARY, hello[:2], rsv=4, fin=False),
        frame(PING),
        frame(CONTINUED, hello[2:]),
        frame(TEXT, b"plain", fin=False),
        frame(CONTINUED),
    ]
    protocol = server()
    assert protocol.feed(b"".join(stream)) == ["plain", b"Hello", "plain"]
    assert len(protocol.out) == 1


@pytest.mark.parametrize("payload", [b"\xff\xff\xff", b"Hello", pack(b"Hello" * 100)[3:]])
def test_what_cannot_be_inflated_closes_with_1007(payload: bytes) -> None:
    """Not an error of ours."""
    protocol = server()
    protocol.feed(frame(BINARY, payload, rsv=4))
    assert closed_with(protocol) == 1007


def test_text_is_checked_after_inflating() -> None:
    """Bad bytes and a cut-off character, and early where it can be seen early."""
    for text in (b"\xff", "€".encode()[:2], b"ok" * 500 + b"\xc0"):
        protocol = server()
        protocol.feed(frame(TEXT, pack(text), rsv=4))
        assert closed_with(protocol) == 1007
    protocol = server()
    raw = frame(TEXT, pack(b"\xff" + random.Random(1).randbytes(100_000), level=1), rsv=4, fin=False)
    protocol.feed(raw[: len(raw) // 2])
    assert closed_with(protocol) == 1007


@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_bomb_closes_with_1009_and_was_never_inflated(opcode: int) -> None:
    """32 MB behind a limit of 1 MB: little more than the limit was ever held, however the bytes come."""
    limits = Limits(message_bytes_max=MIB)
    raw = frame(opcode, pack(bytes(32 * MIB)), rsv=4)
    for reads in ([raw], [raw[at : at + 1000] for at in range(0, len(raw), 1000)]):
        protocol = server(limits)
        tracemalloc.start()
        try:
            for one in reads:
                assert protocol.feed(one) == []
            _held, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert closed_with(protocol) == 1009
        # the buffer that grows is moved once in a while
        assert peak < 2.5 * MIB


def test_a_message_of_exactly_the_limit_is_taken() -> None:
    """Compressible or not; one byte more is refused."""
    limits = Limits(message_bytes_max=100_000)
    noise = random.Random(5).randbytes(100_001)
    for data in (bytes(100_001), noise):
        stored = pack(data[:-1], level=0)
        assert server(limits).feed(frame(BINARY, stored, rsv=4)) == [data[:-1]]
        assert server(limits).feed(frame(BINARY, pack(data[:-1]), rsv=4)) == [data[:-1]]
        protocol = server(limits)
        assert protocol.feed(frame(BINARY, pack(data), rsv=4)) == []
        assert closed_with(protocol) == 1009


def test_what_inflates_to_nothing_has_an_end_too() -> None:
    """Empty blocks, for ever: what came counts as well."""
    protocol = server(Limits(message_bytes_max=1000))
    protocol.feed(frame(BINARY, b"\0\0\0\xff\xff" * 100, rsv=4, fin=False))
    assert not protocol.closed
    protocol.feed(frame(CONTINUED, b"\0\0\0\xff\xff" * 200, fin=False))
    assert closed_with(protocol) == 1009


def test_a_connection_that_waits_holds_no_zlib_without_memory() -> None:
    """What the documents promise of the defaults: nothing is kept between messages, in either direction."""
    agreed = choose("permessage-deflate; client_max_window_bits", Deflate(message_bytes_min=0))
    assert agreed is not None
    raw = frame(TEXT, pack(b"x" * 1000, window_bits=12), rsv=4)
    Protocol("server", deflate=agreed).message("warm " * 100)
    limits = Limits()
    tracemalloc.start()
    try:
        protocols = [Protocol("server", limits, deflate=agreed) for _ in range(100)]
        for protocol in protocols:
            assert protocol.feed(raw)
            assert protocol.message("x" * 1000)
        held, _peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert held / len(protocols) < 1024
