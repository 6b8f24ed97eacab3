"""An echo server in a process of its own: `python echo_server.py PORT`. Serves until it is told to end."""

from __future__ import annotations

import sys

from websocket_fabric import Deflate, Limits, Message, WebSocketServer

MESSAGE_BYTES_MAX = 64 * 1024 * 1024
DEFLATE = Deflate(
    level=1, window_bits=15, context_takeover=True, peer_window_bits=15, peer_context_takeover=True, message_bytes_min=0
)
"""Every message is compressed: kosoku 0.1.0 fails in its own code where text comes back uncompressed, as it may."""


def main(port: int) -> None:
    """Serve."""
    limits = Limits(message_bytes_max=MESSAGE_BYTES_MAX, outbox_bytes_max=MESSAGE_BYTES_MAX, when_full="block")
    server = WebSocketServer(f"127.0.0.1:{port}", limits=limits, deflate=DEFLATE)

    @server.on_message
    async def echo(message: Message) -> str | bytes:
        return message.data

    server.serve()


if __name__ == "__main__":
    main(int(sys.argv[1]))
