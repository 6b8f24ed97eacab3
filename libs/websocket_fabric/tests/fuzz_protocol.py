"""Coverage-guided fuzzing of what reads bytes from outside: `python fuzz_protocol.py TARGET CORPUS [options]`.

Targets: `frames` (Protocol.feed, both roles, with and without deflate) and `heads` (requests, answers and the headers
in them). An input fails where something other than the documented error is raised, where a limit is broken, or where
the outcome depends on how the bytes came.
"""

from __future__ import annotations

import sys
import zlib
from contextlib import suppress
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["websocket_fabric"]):
    from websocket_fabric.deflate import Agreement, BadExtension, Deflate, choose, confirm
    from websocket_fabric.handshake import (
        Asked,
        Refused,
        Rejected,
        RequestReader,
        ResponseReader,
        accept,
        check_response,
    )
    from websocket_fabric.heads import BadHead
    from websocket_fabric.limits import Limits
    from websocket_fabric.protocol import Protocol

from raw_frames import closing, frame, read_frames

BYTES_MAX = 600
LIMITS = Limits(message_bytes_max=BYTES_MAX, fragments_max=8, handshake_bytes_max=300, handshake_headers_max=6)
HELLO = bytes.fromhex("f248cdc9c90700")
REQUEST = (
    b"GET /chat HTTP/1.1\r\nHost: a.example\r\nUpgrade: websocket\r\nConnection: Upgrade\r\nOrigin: https://b:443\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
RESPONSE = (
    b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    b"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Extensions: permessage-deflate\r\n\r\n"
)
EXTENSIONS = b'permessage-deflate; client_max_window_bits="10"; server_no_context_takeover, x; y=z'


def hear(protocol: Protocol, reads: list[bytes]) -> tuple[object, ...]:
    """What one end makes of it; no limit is broken, and nothing follows a closing frame."""
    messages = [message for read in reads for message in protocol.feed(read)]
    assert all(len(message) <= BYTES_MAX for message in messages)
    answers = [
        (one.opcode, one.payload[:2] if one.opcode == 8 else one.payload) for one in read_frames(b"".join(protocol.out))
    ]
    assert [opcode for opcode, _payload in answers[:-1]] == [10] * (len(answers) - 1)
    assert protocol.closed == protocol.close_sent == bool(answers and answers[-1][0] == 8)
    assert not protocol.closed or protocol.feed(b"\x81\x80\0\0\0\0") == []
    return messages, answers, protocol.closed, protocol.close_received, protocol.close_code


def frames(data: bytes) -> None:
    """The first byte says which end, what was agreed and how the rest is cut."""
    if not data:
        return
    how, raw = data[0], data[1:]
    role = "server" if how & 1 else "client"
    deflate = Agreement(Deflate(), "", 15, bool(how & 4), 15, bool(how & 4)) if how & 2 else None
    size = 1 + (how >> 3)
    whole = hear(Protocol(role, LIMITS, deflate=deflate), [raw])
    pieces = [raw[at : at + size] for at in range(0, len(raw), size)]
    assert hear(Protocol(role, LIMITS, deflate=deflate), pieces) == whole


def heads(data: bytes) -> None:
    """The first byte says which of the readers."""
    if not data:
        return
    how, raw = data[0], data[1:]
    size = 1 + (how >> 2)
    outcomes = {read_head(how & 3, [raw]), read_head(how & 3, [raw[at : at + size] for at in range(0, len(raw), size)])}
    assert len(outcomes) == 1, outcomes


def read_head(which: int, reads: list[bytes]) -> str:
    """What a reader makes of it."""
    try:
        if which == 0:
            request = RequestReader(LIMITS)
            for at, read in enumerate(reads):
                if asked := request.feed(read):
                    rest = asked[1] + b"".join(reads[at + 1 :])
                    return f"{accept(asked[0], origins=['https://b'], deflate=Deflate())} {rest!r}"
        elif which == 1:
            response = ResponseReader(LIMITS)
            for read in reads:
                if answered := response.feed(read):
                    return str(check_response(Asked(b"", "dGhlIHNhbXBsZSBub25jZQ=="), answered[0]))
        else:
            header = b"".join(reads).decode("latin-1")
            return str(choose(header, Deflate()) if which == 2 else confirm(header, Deflate()))
    except (Refused, Rejected, BadHead, BadExtension) as told:
        return repr(told)
    return ""


def seeds(target: str) -> list[bytes]:
    """Good inputs to begin with."""
    if target == "heads":
        parts = {0: [REQUEST, REQUEST + b"\x81\0"], 1: [RESPONSE], 2: [EXTENSIONS], 3: [EXTENSIONS]}
        return [bytes((which | 4 << 2,)) + raw for which, raws in parts.items() for raw in raws]
    found = []
    for how in (*range(8), 0x53, 0x57):
        key = b"\1\2\3\4" if how & 1 else None
        stream = [
            frame(1, "é€".encode(), key=key),
            frame(2, bytes(130), key=key),
            frame(1, b"a", fin=False, key=key),
            frame(9, b"?", key=key),
            frame(0, b"b", key=key),
        ]
        if how & 2:
            stream += [frame(1, HELLO[:2], rsv=4, fin=False, key=key), frame(0, HELLO[2:], key=key)]
            stream.append(frame(2, zlib.compress(b"x" * 500, wbits=-15) + b"\0", rsv=4, key=key))
        found.append(bytes((how,)) + b"".join([*stream, frame(8, closing(1000, "x"), key=key)]))
    return found


def main() -> None:
    """Write the seeds, then fuzz."""
    target, corpus = sys.argv[1], Path(sys.argv[2])
    for at, seed in enumerate(seeds(target)):
        (corpus / f"seed-{at}").write_bytes(seed)
    atheris.Setup([sys.argv[0], *sys.argv[2:]], {"frames": frames, "heads": heads}[target])
    with suppress(SystemExit):
        atheris.Fuzz()


if __name__ == "__main__":
    main()
