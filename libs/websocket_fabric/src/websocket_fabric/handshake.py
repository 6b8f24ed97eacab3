"""The opening handshake (RFC 6455, section 4) as bytes and values, for both ends. Does no I/O."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class Refused(Exception):
    """The request is no handshake that can be accepted; `status` is the HTTP answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request. Header names are lower case; repeated ones are joined by commas."""

    target: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was agreed."""

    response: bytes
    subprotocol: str = ""
    extensions: str = ""


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept of this Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()


def parse_request(data: bytes) -> tuple[Request, bytes] | None:
    """The request and the bytes after it; None where it is not whole yet. Raises Refused."""
    head, found, rest = data.partition(b"\r\n\r\n")
    if not found:
        return None
    try:
        first, *lines = head.decode("ascii").split("\r\n")
        method, target, version = first.split(" ")
    except ValueError:
        raise Refused(400, "This is no HTTP request.") from None
    if method != "GET" or version != "HTTP/1.1":
        raise Refused(400, "A WebSocket begins with GET and HTTP/1.1.")
    headers: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not name or name != name.strip():
            raise Refused(400, "A header line is malformed.")
        name, value = name.lower(), value.strip()
        headers[name] = f"{headers[name]}, {value}" if name in headers else value
    return Request(target, headers), rest


def accept(request: Request, *, origins: Sequence[str] = (), subprotocols: Sequence[str] = ()) -> Accepted:
    """Accept a handshake. `origins`: those a browser may come from, empty for any. Raises Refused."""
    headers = request.headers
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        raise Refused(426, "This address speaks WebSocket only.")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise Refused(400, "Connection: Upgrade is missing.")
    if headers.get("sec-websocket-version") != "13":
        raise Refused(426, "Sec-WebSocket-Version must be 13.")
    key = headers.get("sec-websocket-key", "")
    if not _is_key(key):
        raise Refused(400, "Sec-WebSocket-Key must be 16 bytes in base64.")
    origin = headers.get("origin")
    if origins and origin is not None and origin not in origins:
        raise Refused(403, "This page's origin is not allowed.")
    offered = [one.strip() for one in headers.get("sec-websocket-protocol", "").split(",")]
    chosen = next((one for one in subprotocols if one in offered), "")
    lines = ["HTTP/1.1 101 Switching Protocols", "Upgrade: websocket", "Connection: Upgrade"]
    lines.append(f"Sec-WebSocket-Accept: {accept_key(key)}")
    if chosen:
        lines.append(f"Sec-WebSocket-Protocol: {chosen}")
    return Accepted("\r\n".join([*lines, "", ""]).encode(), chosen)


def refusal(refused: Refused) -> bytes:
    """The HTTP answer to a refused handshake."""
    body = (refused.reason + "\n").encode()
    extra = "Sec-WebSocket-Version: 13\r\n" if refused.status == 426 else ""
    head = f"HTTP/1.1 {refused.status} Refused\r\n{extra}Content-Type: text/plain; charset=utf-8\r\n"
    return f"{head}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False
