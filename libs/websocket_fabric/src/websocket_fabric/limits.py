"""Every bound of a connection and of a server, with its default. Holds numbers, and says which make no sense."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

SHORTEST_S = 0.001
"""Of a time in which something must happen: less would end everything at once, and nothing at all divides by zero."""
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
    inbox_bytes_max: int = 4 * 1024 * 1024
    """Bytes of them (text counts in characters); then nothing more is read either. A longer message passes alone."""
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

    def __post_init__(self) -> None:
        if self.when_full not in get_args(WhenFull):
            raise ValueError(
                f"Limits: when_full must be one of {', '.join(get_args(WhenFull))}, not {self.when_full!r}."
            )
        for field in fields(self):
            name, least = field.name, _LEAST.get(field.name)
            if name.endswith("_s"):
                check_time("Limits", name, getattr(self, name), SHORTEST_S if least is None else least)
            elif name != "when_full":
                check_count("Limits", name, getattr(self, name), 1 if least is None else least)


_LEAST = {"socket_send_bytes": 0, "shutdown_timeout_s": 0}


def check_count(owner: str, name: str, value: Any, least: int) -> None:
    """Raises ValueError where it is no whole number, or too small."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{owner}: {name} must be a whole number, {least} or more, not {value!r}.")


def check_time(owner: str, name: str, value: Any, least: float) -> None:
    """Raises ValueError where it is no number of seconds, too small, or has no end."""
    if not isinstance(value, int | float) or not least <= value < math.inf:
        raise ValueError(f"{owner}: {name} must be a number of seconds, {least:g} or more, not {value!r}.")
