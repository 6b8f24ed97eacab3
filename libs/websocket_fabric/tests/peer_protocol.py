"""The sans-I/O part of the `websockets` package, read as ours is: what it makes of the same bytes."""

from __future__ import annotations

import codecs
from dataclasses import dataclass, field
from typing import Any

from websockets.exceptions import PayloadTooBig, ProtocolError
from websockets.extensions.permessage_deflate import PerMessageDeflate
from websockets.frames import Opcode
from websockets.protocol import Protocol as PeerProtocol
from websockets.protocol import Side, State


@dataclass
class Heard:
    """What one end made of a stream."""

    messages: list[str | bytes] = field(default_factory=list)
    pings: list[bytes] = field(default_factory=list)
    ended: int = 0
    """The code that it ended with: the peer's, or the one that it was given. 0: it goes on."""
    broken: bool = False
    """The peer broke the protocol."""
    reason: str = ""


def peer_hears(stream: bytes, *, takeover: bool | None, bytes_max: int) -> Heard:
    """`takeover`: None where deflate was not agreed on."""
    peer: Any = PeerProtocol(Side.SERVER, state=State.OPEN, max_size=bytes_max)
    if takeover is not None:
        peer.extensions = [PerMessageDeflate(not takeover, not takeover, 15, 15)]
    peer.receive_data(stream)
    heard = Heard()
    decoder: Any = None
    parts: list[Any] = []
    for event in peer.events_received():
        if event.opcode is Opcode.PING:
            heard.pings.append(bytes(event.data))
        if event.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
            continue
        if event.opcode is not Opcode.CONT:
            decoder = codecs.getincrementaldecoder("utf-8")() if event.opcode is Opcode.TEXT else None
            parts = []
        try:
            # text is left to its user, who is us
            parts.append(decoder.decode(bytes(event.data), event.fin) if decoder else bytes(event.data))
        except UnicodeDecodeError:
            heard.ended, heard.broken = 1007, True
            return heard
        if event.fin:
            heard.messages.append("".join(parts) if decoder else b"".join(parts))
    if peer.parser_exc is not None and not isinstance(peer.parser_exc, EOFError):
        kinds = {PayloadTooBig: 1009, UnicodeDecodeError: 1007, ProtocolError: 1002}
        heard.broken, heard.reason, heard.ended = True, str(peer.parser_exc), kinds[type(peer.parser_exc)]
    elif peer.close_rcvd is not None:
        heard.ended = peer.close_rcvd.code
    return heard
