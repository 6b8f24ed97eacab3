"""permessage-deflate (RFC 7692): what is offered, what is agreed, and messages made small and large again. No I/O.

Memory. A zlib context of the default size takes 262 KB to compress (window 15, memory level 8) and 39 KB to inflate,
per connection, for as long as it is kept. The defaults here keep none: each message is compressed on its own
(`context_takeover=False`) by one compressor for all connections of the process, whose 38 KB (window 12, memory level
5) hold nothing between two messages, and inflating takes 11 KB while a compressed message is on its way. With
`context_takeover=True` small messages that resemble each other get smaller, and each connection keeps
2^(window_bits + 2) + 2^(memory_level + 9) bytes + 6 KB from its first long message on; with
`peer_context_takeover=True` it keeps 7 KB + 2^peer_window_bits from the first one that it reads.

Inflating is done a bounded piece at a time, so that a bomb is noticed before it went off.
"""

from __future__ import annotations

import functools
import re
import threading
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

NAME = "permessage-deflate"
TAIL = b"\x00\x00\xff\xff"
"""What a flush ends with; it is not sent (RFC 7692, section 7.2.1)."""
INFLATE_BYTES = 64 * 1024
"""What is inflated at once."""
STREAM_ENDS_MAX = 8
"""Ends of a deflate stream inside one message; a sender has a reason for one."""
WINDOW_BITS = ("8", "9", "10", "11", "12", "13", "14", "15")

Parameters = list[tuple[str, str | None]]

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_PARAMETER = re.compile(rf'[ \t]*;[ \t]*({_WORD})(?:[ \t]*=[ \t]*(?:({_WORD})|"({_WORD})"))?')
_EXTENSION = re.compile(rf"[ \t]*({_WORD})")
_COMMA = re.compile(r"[ \t]*(?:,|$)")


class BadExtension(ValueError):
    """A Sec-WebSocket-Extensions header that is malformed, or that answers what was not asked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deflate:
    """What this end wants. `peer_...` is about what the other end sends: its compressor, our memory."""

    level: int = 6
    """zlib's, 1 (fast) to 9 (small)."""
    window_bits: int = 12
    """At most 2^this bytes are looked back when compressing, 9 to 15; less where the peer asks for less."""
    memory_level: int = 5
    """zlib's, 1 to 9."""
    context_takeover: bool = False
    """Whether a message may refer to those before it; less where the peer forbids it."""
    peer_window_bits: int = 12
    """9 to 15. A server can ask only those clients that say they can be asked."""
    peer_context_takeover: bool = False
    message_bytes_min: int = 256
    """A shorter message is sent as it is; 0 compresses every one, even where that makes it longer."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("level", 1, 9),
            ("window_bits", 9, 15),
            ("memory_level", 1, 9),
            ("peer_window_bits", 9, 15),
            ("message_bytes_min", 0, 1 << 63),
        ):
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"Deflate: {name} must be {low} to {high}, not {getattr(self, name)}.")


@dataclass(frozen=True, slots=True)
class Agreement:
    """What both ends agreed on, seen from one of them."""

    options: Deflate
    header: str
    """The Sec-WebSocket-Extensions of the server's answer."""
    window_bits: int
    """Of what this end sends. 8 is agreed to and nothing is compressed: zlib cannot compress with it."""
    context_takeover: bool
    peer_window_bits: int
    peer_context_takeover: bool


# --- negotiation


def parse_extensions(header: str) -> list[tuple[str, Parameters]]:
    """Names and parameters of a Sec-WebSocket-Extensions header, in order. Raises BadExtension."""
    extensions: list[tuple[str, Parameters]] = []
    at = 0
    while at < len(header):
        name = _EXTENSION.match(header, at)
        if name is None:
            raise BadExtension("Sec-WebSocket-Extensions is malformed.")
        parameters: Parameters = []
        at = name.end()
        while parameter := _PARAMETER.match(header, at):
            parameters.append((parameter[1], parameter[2] or parameter[3]))
            at = parameter.end()
        comma = _COMMA.match(header, at)
        if comma is None:
            raise BadExtension("Sec-WebSocket-Extensions is malformed.")
        extensions.append((name[1], parameters))
        at = comma.end()
    return extensions


def choose(header: str, options: Deflate) -> Agreement | None:
    """The server's part: the first offer that can be met, None where there is none. Raises BadExtension."""
    for name, parameters in parse_extensions(header):
        if name == NAME and (offered := _read(parameters, bare_client_window=True)) is not None:
            return _answer(offered, options)
    return None


def offer(options: Deflate) -> str:
    """The client's part: its offer."""
    parts = [NAME, f"client_max_window_bits={options.window_bits}" if options.window_bits < 15 else _CLIENT_WINDOW]
    if options.peer_window_bits < 15:
        parts.append(f"server_max_window_bits={options.peer_window_bits}")
    if not options.context_takeover:
        parts.append("client_no_context_takeover")
    if not options.peer_context_takeover:
        parts.append("server_no_context_takeover")
    return "; ".join(parts)


def confirm(header: str, options: Deflate | None) -> Agreement | None:
    """The client's part: what the server made of the offer, None where it declined. Raises BadExtension."""
    extensions = parse_extensions(header)
    if not extensions:
        return None
    if options is None or len(extensions) != 1 or extensions[0][0] != NAME:
        raise BadExtension(f"The server answers with extensions that were not offered: {header[:200]!r}.")
    answer = _read(extensions[0][1], bare_client_window=False)
    if answer is None:
        raise BadExtension(f"The server answers with bad parameters: {header[:200]!r}.")
    peer_window_bits = int(answer.get(_SERVER_WINDOW) or 15)
    if peer_window_bits > options.peer_window_bits:
        raise BadExtension(f"The server was asked for a window of {options.peer_window_bits} bits: {header[:200]!r}.")
    if not options.peer_context_takeover and _SERVER_ALONE not in answer:
        raise BadExtension(f"The server was asked for {_SERVER_ALONE}: {header[:200]!r}.")
    return Agreement(
        options,
        header,
        window_bits=min(options.window_bits, int(answer.get(_CLIENT_WINDOW) or 15)),
        context_takeover=options.context_takeover and _CLIENT_ALONE not in answer,
        peer_window_bits=peer_window_bits,
        peer_context_takeover=_SERVER_ALONE not in answer,
    )


_SERVER_ALONE, _CLIENT_ALONE = "server_no_context_takeover", "client_no_context_takeover"
_SERVER_WINDOW, _CLIENT_WINDOW = "server_max_window_bits", "client_max_window_bits"


def _read(parameters: Parameters, *, bare_client_window: bool) -> dict[str, str | None] | None:
    """The parameters by name; None where one is unknown, is there twice or has a value that it cannot have."""
    read: dict[str, str | None] = {}
    for name, value in parameters:
        if name in (_SERVER_ALONE, _CLIENT_ALONE):
            good = value is None
        elif name in (_SERVER_WINDOW, _CLIENT_WINDOW):
            good = value in WINDOW_BITS or (value is None and name == _CLIENT_WINDOW and bare_client_window)
        else:
            good = False
        if not good or name in read:
            return None
        read[name] = value
    return read


def _answer(offered: dict[str, str | None], options: Deflate) -> Agreement:
    parts = [NAME]
    context_takeover = options.context_takeover and _SERVER_ALONE not in offered
    peer_context_takeover = options.peer_context_takeover and _CLIENT_ALONE not in offered
    window_bits = min(options.window_bits, int(offered.get(_SERVER_WINDOW) or 15))
    peer_window_bits = 15
    if _CLIENT_WINDOW in offered:
        peer_window_bits = min(options.peer_window_bits, int(offered[_CLIENT_WINDOW] or 15))
    if not context_takeover:
        parts.append(_SERVER_ALONE)
    if not peer_context_takeover:
        parts.append(_CLIENT_ALONE)
    if _SERVER_WINDOW in offered or window_bits < 15:
        parts.append(f"{_SERVER_WINDOW}={window_bits}")
    if peer_window_bits < 15:
        parts.append(f"{_CLIENT_WINDOW}={peer_window_bits}")
    return Agreement(options, "; ".join(parts), window_bits, context_takeover, peer_window_bits, peer_context_takeover)


# --- messages


class Compressor:
    """Makes messages small, one after the other. May be shared: one message is made at a time."""

    def __init__(self, level: int, window_bits: int, memory_level: int, *, takeover: bool) -> None:
        self.remembers = takeover
        """Messages may refer to those before them: none may be left out, nor overtake another."""
        self._settings = (level, zlib.DEFLATED, -window_bits, memory_level)
        self._flush = zlib.Z_SYNC_FLUSH if takeover else zlib.Z_FULL_FLUSH
        self._zlib: zlib._Compress | None = None
        self._lock = threading.Lock()

    def compress(self, payload: bytes) -> bytes:
        """The payload of a compressed message. Without takeover it refers to nothing before it."""
        with self._lock:
            # taken out while it works: one that was interrupted (no memory) is not used again
            context, self._zlib = self._zlib or zlib.compressobj(*self._settings), None
            packed = context.compress(payload) + context.flush(self._flush)
            self._zlib = context
        return packed.removesuffix(TAIL)


@functools.lru_cache(maxsize=32)
def _shared(level: int, window_bits: int, memory_level: int) -> Compressor:
    return Compressor(level, window_bits, memory_level, takeover=False)


def compressor(agreed: Agreement) -> Compressor | None:
    """The compressor of a connection: its own, or the one of all that need not remember. None: send as it is."""
    options = agreed.options
    if agreed.window_bits < 9:
        return None
    if agreed.context_takeover:
        return Compressor(options.level, agreed.window_bits, options.memory_level, takeover=True)
    return _shared(options.level, agreed.window_bits, options.memory_level)


class Inflater:
    """Makes the messages of one connection large again."""

    __slots__ = ("_ends", "_takeover", "_window_bits", "_zlib")

    def __init__(self, agreed: Agreement) -> None:
        self._window_bits = agreed.peer_window_bits
        self._takeover = agreed.peer_context_takeover
        self._zlib: zlib._Decompress | None = None
        self._ends = 0

    def inflate(self, packed: bytes, room: int, *, last: bool) -> Iterator[bytes]:
        """What these bytes of a message become, in pieces of INFLATE_BYTES at most. Raises zlib.error.

        `room`: how many bytes the message may still get; one more is given, to be noticed, and nothing after that is
        inflated unless it is asked for.
        """
        if last:
            packed += TAIL
        context = self._zlib or self._fresh()
        while packed:
            piece = context.decompress(packed, min(INFLATE_BYTES, max(room, 0) + 1))
            room -= len(piece)
            yield piece
            packed = context.unconsumed_tail
            if context.eof:
                # a sender may end its stream (RFC 7692, section 7.2.3.4); what follows is a new one
                packed, context = context.unused_data, self._fresh()
                self._ends += 1
                if self._ends > STREAM_ENDS_MAX:
                    raise zlib.error(f"more than {STREAM_ENDS_MAX} streams in a message")
        self._zlib = context
        if last:
            self._ends = 0
            if not self._takeover:
                self._zlib = None

    def _fresh(self) -> zlib._Decompress:
        # some compressors look back 2^9 bytes when they are told 8
        return zlib.decompressobj(-max(9, self._window_bits))
