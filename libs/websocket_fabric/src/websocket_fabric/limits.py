"""Every bound of a connection and of a server, with its default. Holds numbers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

WhenFull = Literal["block", "drop_oldest", "close"]
"""What happens when a connection's outgoing queue is full.

`block`: nothing further is read from that client, and `drain` waits, until it has taken what waits; one more message
than the hard bound closes with 1013. `drop_oldest`: the oldest waiting message is thrown away and counted. `close`:
the connection is closed with 1013 (try again later).
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds. Times are in seconds, sizes in bytes."""

    message_bytes_max: int = 1024 * 1024
    """A message after reassembly and decompression; one byte more closes with 1009."""
    fragments_max: int = 128 * 1024
    """Frames of one message, empty ones too; one more closes with 1009."""
    connections_max: int = 10_000
    """One more is answered with 503 and closed."""
    inbox_messages_max: int = 64
    """Messages of one connection that wait for their handler; then nothing more is read from it."""
    outbox_messages_max: int = 1024
    """Messages of one connection that wait to be written."""
    outbox_bytes_max: int = 1024 * 1024
    """Bytes of one connection that wait to be written, in the kernel's buffer excluded."""
    when_full: WhenFull = "close"
    socket_send_bytes: int = 0
    """What the kernel holds for a client (SO_SNDBUF); 0 leaves the system's, which may be megabytes."""
    handshake_bytes_max: int = 16 * 1024
    """Of a request or an answer up to the empty line; more is answered with 431."""
    handshake_headers_max: int = 100
    """Header lines of it; more is answered with 431."""
    handshake_timeout_s: float = 10.0
    """From the connection to the last byte of its request."""
    idle_timeout_s: float = 50.0
    """A connection that was silent this long is pinged."""
    ping_timeout_s: float = 20.0
    """And closed if it stays silent this long after that."""
    close_timeout_s: float = 5.0
    """For the other end's half of the closing handshake, and for what is still to be written."""
    shutdown_timeout_s: float = 10.0
    """For all connections together when the server stops; whoever is left then is cut off."""
