"""Both ends of the core, and what they answered, read by hand."""

from __future__ import annotations

from raw_frames import read_frames

from websocket_fabric.limits import Limits
from websocket_fabric.protocol import Protocol

TEXT, BINARY, CONTINUED, CLOSE, PING, PONG = 1, 2, 0, 8, 9, 10


def server(limits: Limits | None = None) -> Protocol:
    """A server's side."""
    return Protocol("server", limits)


def client() -> Protocol:
    """A client's side."""
    return Protocol("client")


def sent(protocol: Protocol) -> list[tuple[int, bytes]]:
    """Opcodes and payloads of what answers."""
    return [(one.opcode, one.payload) for one in read_frames(b"".join(protocol.out))]


def closed_with(protocol: Protocol) -> int:
    """The code of the closing frame, the only one that was sent."""
    ((opcode, payload),) = sent(protocol)
    assert opcode == CLOSE
    assert protocol.closed
    assert protocol.close_sent
    return int.from_bytes(payload[:2], "big")
