"""Streams of frames for hypothesis: what is written, and what must be heard of it."""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from itertools import pairwise

from hypothesis import strategies as st
from raw_frames import closing, frame, read_frames

from websocket_fabric.deflate import Agreement, Deflate
from websocket_fabric.protocol import Protocol

TEXT, BINARY, CONTINUED, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10

DATA = st.one_of(
    st.text(max_size=40),
    st.binary(max_size=40),
    st.sampled_from([120, 125, 126, 127, 300, 65535, 65536, 70_000]).map(lambda size: b"\x00ab" * size)
    | st.sampled_from([125, 126, 1000, 65536]).map(lambda size: "é" * (size // 2)),
)
"""Messages: short ones of any kind, and lengths around those where the frame's form changes."""

READS = st.lists(st.integers(1, 2000), min_size=1, max_size=30) | st.lists(st.integers(1, 3), min_size=1, max_size=5)
"""Sizes of reads, repeated until the stream ends."""


@dataclass
class Stream:
    """Bytes, and what they mean."""

    raw: bytes = b""
    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    ended: int = 0


@dataclass
class Told:
    """What one end made of it: messages, answers, and how it ended."""

    messages: list[str | bytes]
    answers: list[tuple[int, bytes]]
    ended: int
    received: bool


def agreement(takeover: bool) -> Agreement:
    """Deflate with the largest window, with or without memory, both ways."""
    return Agreement(Deflate(message_bytes_min=0), "", 15, takeover, 15, takeover)


def cut(raw: bytes, sizes: list[int]) -> list[bytes]:
    """The stream in reads of these sizes, over and over."""
    reads, at, turn = [], 0, 0
    while at < len(raw):
        # a long stream in tiny reads takes tiny reads at its start only
        size = sizes[turn % len(sizes)] * (1 if turn < 2000 else 1000)
        reads.append(raw[at : at + size])
        at, turn = at + size, turn + 1
    return reads


def listen(protocol: Protocol, reads: list[bytes]) -> Told:
    """Feed them all."""
    messages = [data for read in reads for data in protocol.feed(read)]
    answers = [(one.opcode, one.payload) for one in read_frames(b"".join(protocol.out))]
    return Told(messages, answers, protocol.close_code if protocol.closed else 0, protocol.close_received)


@st.composite
def streams(draw: st.DrawFn, *, masked: bool, takeover: bool | None) -> Stream:
    """A good stream, that may end with a closing frame. `takeover`: None without deflate."""
    stream = Stream()
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    for _ in range(draw(st.integers(0, 6))):
        key = draw(st.binary(min_size=4, max_size=4)) if masked else None
        if draw(st.integers(0, 3)) == 0:
            payload = draw(st.binary(max_size=20))
            stream.raw += frame(PONG, payload, key=key) + frame(PING, payload, key=key)
            stream.pings.append(payload)
            continue
        data = draw(DATA)
        stream.messages.append(data)
        opcode, payload = (TEXT, data.encode()) if isinstance(data, str) else (BINARY, data)
        packed = takeover is not None and draw(st.booleans())
        if packed:
            if not takeover:
                packer = zlib.compressobj(6, zlib.DEFLATED, -15)
            payload = (packer.compress(payload) + packer.flush(zlib.Z_SYNC_FLUSH))[:-4]
        cuts = sorted(draw(st.lists(st.integers(0, len(payload)), max_size=4)))
        edges = [0, *cuts, len(payload)]
        for at, (start, end) in enumerate(pairwise(edges)):
            first, last = at == 0, at == len(edges) - 2
            rsv = 4 if packed and first else 0
            stream.raw += frame(opcode if first else CONTINUED, payload[start:end], fin=last, rsv=rsv, key=key)
            if not last and draw(st.integers(0, 9)) == 0:
                stream.raw += frame(PING, b"between", key=key)
                stream.pings.append(b"between")
    if draw(st.booleans()):
        stream.ended = draw(st.sampled_from([1000, 1001, 1011, 3000, 4999]))
        stream.raw += frame(
            CLOSE, closing(stream.ended, draw(st.text(max_size=20))), key=b"\1\2\3\4" if masked else None
        )
    return stream


@st.composite
def spoilt(draw: st.DrawFn, raw: bytes) -> bytes:
    """The stream with a few bytes changed, cut off or put in."""
    changed = bytearray(raw)
    for _ in range(draw(st.integers(1, 3))):
        # heads are where it hurts, and they are short: mostly near the start
        at = draw(st.integers(0, max(0, min(len(changed), draw(st.sampled_from([2, 20, 200, 200_000]))) - 1)))
        what = draw(st.integers(0, 2))
        if what == 0 and changed:
            changed[at] = draw(st.integers(0, 255))
        elif what == 1:
            changed[at:at] = draw(st.binary(max_size=6))
        else:
            del changed[at : at + draw(st.integers(1, 6))]
    return bytes(changed)
