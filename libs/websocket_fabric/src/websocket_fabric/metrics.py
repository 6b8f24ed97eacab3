"""What a server counts, and the hooks that a metrics system hangs on. Knows no metrics system.

What happens for each message is counted in plain ints (read them when you are scraped); what is rare is a hook.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from websocket_fabric.connection import Connection


class Counts:
    """Totals since the server was made."""

    __slots__ = (
        "bytes_in",
        "bytes_out",
        "connections_closed",
        "connections_opened",
        "handler_errors",
        "handshakes_refused",
        "messages_dropped",
        "messages_in",
        "messages_out",
    )

    def __init__(self) -> None:
        self.connections_opened = 0
        self.connections_closed = 0
        self.handshakes_refused = 0
        self.handler_errors = 0
        self.messages_in = 0
        self.messages_out = 0
        self.messages_dropped = 0
        """Not sent because the client was too slow, or not handled because it was gone."""
        self.bytes_in = 0
        """On the wire, frames' heads included."""
        self.bytes_out = 0

    def as_dict(self) -> dict[str, int]:
        """By name."""
        return {name: getattr(self, name) for name in self.__slots__}


class Metrics:
    """Override what you want to hear of. Called in the server's loop: be quick, and do not raise."""

    def opened(self, connection: Connection) -> None:
        """A connection is open."""

    def closed(self, connection: Connection, code: int) -> None:
        """It is gone; 1006 where nobody said goodbye."""

    def handshake_refused(self, status: int) -> None:
        """Somebody got this HTTP status instead of a connection."""

    def dropped(self, connection: Connection, messages: int) -> None:
        """So many messages to it were thrown away."""

    def rtt(self, connection: Connection, rtt_s: float) -> None:
        """The time between a ping and its pong."""
