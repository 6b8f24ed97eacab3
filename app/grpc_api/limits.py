"""Every limit of the gRPC API in one place, and what gRPC itself is told of them."""

from __future__ import annotations

from app.sockets import PING_EVERY_S, SEND_TIMEOUT_S
from app.sse import STREAMS_MAX
from app.web import BODY_BYTES_MAX

DATA_BYTES_MAX = BODY_BYTES_MAX
"""Of one piece of an upload, and about so much of any other request; what REST allows a JSON body."""
MESSAGE_BYTES_MAX = DATA_BYTES_MAX + 16
"""gRPC counts what names a piece and says its length too."""
ANSWER_BYTES_MAX = 4 * 1024 * 1024
"""What a gRPC client reads by default."""
PART_BYTES_MAX = 1024 * 1024
"""About so much of a conversation goes into one message."""
METADATA_BYTES_MAX = 16 * 1024
CONNECTIONS_MAX = 1000
CALLS_PER_CONNECTION_MAX = 100
CALLS_MAX = STREAMS_MAX + 100
"""At once, of all connections: streams have a limit of their own (STREAMS_MAX, shared with SSE), so that short calls
always find room."""
HANDSHAKE_S = 10
"""A connection on which nobody begins to speak HTTP/2 is closed after this."""
CONNECTION_IDLE_S = 300
"""A connection without a call; its client makes another one by itself when it has something to say."""
KEEPALIVE_EVERY_S = PING_EVERY_S
KEEPALIVE_TIMEOUT_S = 20
"""A peer that answers no ping this long is gone."""
CLIENT_PINGS_EVERY_S = 10
"""A client that pings more often is told to calm down (GOAWAY, too_many_pings)."""
WRITE_TIMEOUT_S = SEND_TIMEOUT_S
"""A client that takes nothing this long is cut off; it can resume."""
UPLOAD_IDLE_S = 60.0
"""An upload whose bytes stop coming is given up after this."""
HEAR_S = 30.0
"""A stream waits this long for an event, then waits again."""
GRACE_S = 3.0
"""What is being answered when the server stops has this long to end."""


def options() -> list[tuple[str, int]]:
    """The channel arguments of the server."""
    return [
        # two servers would share a port without a word
        ("grpc.so_reuseport", 0),
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", ANSWER_BYTES_MAX),
        ("grpc.max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES_MAX),
        ("grpc.max_allowed_incoming_connections", CONNECTIONS_MAX),
        ("grpc.max_concurrent_streams", CALLS_PER_CONNECTION_MAX),
        ("grpc.server_handshake_timeout_ms", int(HANDSHAKE_S * 1000)),
        ("grpc.max_connection_idle_ms", CONNECTION_IDLE_S * 1000),
        ("grpc.keepalive_time_ms", KEEPALIVE_EVERY_S * 1000),
        ("grpc.keepalive_timeout_ms", KEEPALIVE_TIMEOUT_S * 1000),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", CLIENT_PINGS_EVERY_S * 1000),
        # nothing is inflated: tokens are too short to gain by it, and a small message could become a large one
        ("grpc.compression_enabled_algorithms_bitset", 1),
    ]
