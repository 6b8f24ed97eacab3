"""A fast, correct WebSocket server and client. Public names only."""

from websocket_fabric.asyncio_server import Connection, WebSocketServer
from websocket_fabric.deflate import Deflate
from websocket_fabric.handshake import Refused, Request
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data, Message
from websocket_fabric.metrics import Counts, Metrics
from websocket_fabric.outbox import Gone

__all__ = [
    "Connection",
    "Counts",
    "Data",
    "Deflate",
    "Gone",
    "Limits",
    "Message",
    "Metrics",
    "Refused",
    "Request",
    "WebSocketServer",
]
