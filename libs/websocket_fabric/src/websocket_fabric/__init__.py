"""A fast, correct WebSocket server and client. Public names only."""

from websocket_fabric.asyncio_server import Connection, WebSocketServer
from websocket_fabric.backoff import Backoff
from websocket_fabric.client import Connector, connect
from websocket_fabric.client_connection import ClientConnection, ConnectionClosed, OutboxFull
from websocket_fabric.deflate import Deflate
from websocket_fabric.handshake import Refused, Rejected, Request
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data, Message
from websocket_fabric.metrics import Counts, Metrics
from websocket_fabric.outbox import Gone
from websocket_fabric.reconnecting import Change, GaveUp, ReconnectingClient, State

__all__ = [
    "Backoff",
    "Change",
    "ClientConnection",
    "Connection",
    "ConnectionClosed",
    "Connector",
    "Counts",
    "Data",
    "Deflate",
    "GaveUp",
    "Gone",
    "Limits",
    "Message",
    "Metrics",
    "OutboxFull",
    "ReconnectingClient",
    "Refused",
    "Rejected",
    "Request",
    "State",
    "WebSocketServer",
    "connect",
]
