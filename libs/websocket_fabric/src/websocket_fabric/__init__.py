"""A fast, correct WebSocket server and client. Public names only."""

from websocket_fabric.asyncio_server import Connection, WebSocketServer
from websocket_fabric.limits import Limits
from websocket_fabric.messages import Data, Message

__all__ = ["Connection", "Data", "Limits", "Message", "WebSocketServer"]
