"""The opening handshake (RFC 6455, section 4) as bytes and values, for both ends. Does no I/O."""

from __future__ import annotations

import base64
import functools
import hashlib
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from http import HTTPStatus

from websocket_fabric.deflate import Agreement, BadExtension, Deflate, choose, confirm, offer
from websocket_fabric.heads import TOKEN, VALUE, BadHead, HeadReader
from websocket_fabric.limits import Limits

GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
BODY_BYTES_MAX = 1024
"""What is kept of the body of an answer that is no handshake."""
LAST_CHUNK = b"0\r\n\r\n"
HOST = re.compile(r"(?:[A-Za-z0-9._~!$&'()*+,;=%\-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
ORIGIN = re.compile(r"([a-z][a-z0-9+.\-]*)://([a-z0-9._\-]+|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?")
TARGET = re.compile(r"(?:/|(?:https?|wss?)://)[\x21-\x7e]*")
OURS = frozenset(
    [
        "connection",
        "content-length",
        "host",
        "origin",
        "transfer-encoding",
        "upgrade",
        "sec-websocket-accept",
        "sec-websocket-extensions",
        "sec-websocket-key",
        "sec-websocket-protocol",
        "sec-websocket-version",
    ]
)
"""Headers that the handshake itself writes."""
DEFAULT_PORTS = {"http": "80", "https": "443", "ws": "80", "wss": "443"}

Headers = Sequence[tuple[str, str]]


class Refused(Exception):
    """The request is no handshake that can be accepted; `status` is the HTTP answer."""

    def __init__(self, status: int, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = status, reason


class Rejected(Exception):
    """The server answered, and not with a WebSocket: a redirect, an error, or an answer that breaks the rules.

    `status` is the HTTP status, 101 where the server agreed to something that was not asked.
    """

    def __init__(self, response: Response, reason: str) -> None:
        super().__init__(reason)
        self.status, self.reason = response.status, reason
        self.headers, self.body = response.headers, response.body

    @property
    def location(self) -> str:
        """Where a redirect leads; empty where it is none. Following it is the caller's decision."""
        return self.headers.get("location", "") if 300 <= self.status < 400 else ""


@dataclass(frozen=True, slots=True)
class Request:
    """A client's request. Header names are lower case; repeated ones are joined by commas."""

    target: str
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Response:
    """A server's answer. Header names as in Request."""

    status: int
    reason: str
    headers: dict[str, str]
    body: bytes = b""
    """The first BODY_BYTES_MAX bytes, as they came, of an answer that is no 101."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """What was agreed."""

    response: bytes
    """The server's answer; empty at the client, who read it."""
    subprotocol: str = ""
    deflate: Agreement | None = None
    """For Protocol(deflate=...)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a client asked, to hold the answer against."""

    request: bytes
    key: str
    subprotocols: tuple[str, ...] = ()
    deflate: Deflate | None = None


def accept_key(key: str) -> str:
    """Sec-WebSocket-Accept of this Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key.encode() + GUID, usedforsecurity=False).digest()).decode()


# --- the server's side


class RequestReader:
    """Reads one request, however its bytes come."""

    __slots__ = ("_heads",)

    def __init__(self, limits: Limits | None = None) -> None:
        self._heads = HeadReader(b"GET ", limits)

    def feed(self, data: bytes) -> tuple[Request, bytes] | None:
        """The request and the bytes after it; None where it is not whole yet. Raises Refused."""
        try:
            read = self._heads.feed(data)
        except BadHead as bad:
            raise Refused(bad.status, bad.reason) from None
        if read is None:
            return None
        head, rest = read
        target, _, version = head.first_line.removeprefix("GET ").partition(" ")
        if TARGET.fullmatch(target) is None or re.fullmatch(r"HTTP/[0-9]\.[0-9]", version) is None:
            raise Refused(400, "This is no HTTP request.")
        if not "HTTP/1.1" <= version < "HTTP/2":
            raise Refused(505, "A WebSocket begins with HTTP/1.1.")
        return Request(target, head.headers), rest


def parse_request(data: bytes, limits: Limits | None = None) -> tuple[Request, bytes] | None:
    """The request and the bytes after it; None where it is not whole. Raises Refused."""
    return RequestReader(limits).feed(data)


def accept(
    request: Request,
    *,
    origins: Sequence[str] = (),
    subprotocols: Sequence[str] = (),
    headers: Headers = (),
    deflate: Deflate | None = None,
) -> Accepted:
    """Accept a handshake. Raises Refused.

    `origins`: those that a browser may come from (scheme://host or scheme://host:port, or null), empty for any; who
    names none is no browser and may come. ValueError where one of them, or of `headers`, is malformed.
    `subprotocols`: ours, the best first. `headers`: more to answer. `deflate`: what we want, None for no compression.
    """
    _check_request(request.headers)
    _check_origin(request.headers.get("origin"), origins)
    chosen = _choose_subprotocol(request.headers.get("sec-websocket-protocol"), subprotocols)
    try:
        agreed = choose(request.headers.get("sec-websocket-extensions", ""), deflate) if deflate else None
    except BadExtension as bad:
        raise Refused(400, str(bad)) from None
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(request.headers['sec-websocket-key'])}",
    ]
    if chosen:
        lines.append(f"Sec-WebSocket-Protocol: {chosen}")
    if agreed:
        lines.append(f"Sec-WebSocket-Extensions: {agreed.header}")
    return Accepted("\r\n".join([*lines, *_lines(headers), "", ""]).encode(), chosen, agreed)


def refusal(refused: Refused, *, headers: Headers = ()) -> bytes:
    """The HTTP answer to a refused handshake."""
    body = (refused.reason + "\n").encode()
    lines = [f"HTTP/1.1 {refused.status} {_phrase(refused.status)}"]
    if refused.status == 426:
        lines += ["Upgrade: websocket", "Connection: Upgrade, close", "Sec-WebSocket-Version: 13"]
    else:
        lines.append("Connection: close")
    lines += ["Content-Type: text/plain; charset=utf-8", f"Content-Length: {len(body)}"]
    return "\r\n".join([*lines, *_lines(headers), "", ""]).encode() + body


def _check_request(headers: dict[str, str]) -> None:
    if HOST.fullmatch(headers.get("host", "")) is None:
        raise Refused(400, "Host must be there and name a host.")
    if "websocket" not in _tokens(headers.get("upgrade", "")):
        raise Refused(426, "This address speaks WebSocket only.")
    if "upgrade" not in _tokens(headers.get("connection", "")):
        raise Refused(400, "Connection: Upgrade is missing.")
    if headers.get("sec-websocket-version") != "13":
        raise Refused(426, "Sec-WebSocket-Version must be 13.")
    if not _is_key(headers.get("sec-websocket-key", "")):
        raise Refused(400, "Sec-WebSocket-Key must be 16 bytes in base64.")
    if "transfer-encoding" in headers or headers.get("content-length", "0") != "0":
        raise Refused(400, "A handshake has no body.")


def _check_origin(origin: str | None, allowed: Sequence[str]) -> None:
    if allowed and origin is not None and _origin(origin) not in _allowed(tuple(allowed)):
        raise Refused(403, "This page's origin is not allowed.")


@functools.lru_cache(maxsize=16)
def _allowed(origins: tuple[str, ...]) -> frozenset[str]:
    for one in origins:
        if not is_origin(one):
            raise ValueError(f"{one!r} is no origin: scheme://host or scheme://host:port, without a path.")
    return frozenset(_origin(one) for one in origins)


def is_origin(value: str) -> bool:
    """Whether a page could come from there."""
    return value == "null" or ORIGIN.fullmatch(value.lower()) is not None


def _origin(value: str) -> str:
    """In one form: lower case, without the scheme's own port. What is no origin stays as it is."""
    match = ORIGIN.fullmatch(value.lower())
    if match is None:
        return value
    scheme, host, port = match.groups()
    return f"{scheme}://{host}" + (f":{port}" if port and port != DEFAULT_PORTS.get(scheme) else "")


def _choose_subprotocol(header: str | None, ours: Sequence[str]) -> str:
    if header is None:
        return ""
    offered = [one.strip(" \t") for one in header.split(",")]
    if len(set(offered)) != len(offered) or not all(TOKEN.fullmatch(one) for one in offered):
        raise Refused(400, "Sec-WebSocket-Protocol must be different names.")
    return next((one for one in ours if one in offered), "")


# --- the client's side


def build_request(
    host: str,
    target: str = "/",
    *,
    origin: str = "",
    subprotocols: Sequence[str] = (),
    headers: Headers = (),
    deflate: Deflate | None = None,
) -> Asked:
    """A client's request. `host` as in a URL, with its port where it is not the usual one. Raises ValueError."""
    if HOST.fullmatch(host) is None:
        raise ValueError(f"{host!r} is no host.")
    if TARGET.fullmatch(target) is None:
        raise ValueError(f"{target!r} is no target: it begins with / and has neither spaces nor other than ASCII.")
    if len(set(subprotocols)) != len(subprotocols) or not all(TOKEN.fullmatch(one) for one in subprotocols):
        raise ValueError(f"{subprotocols!r} must be different names of subprotocols.")
    if VALUE.fullmatch(origin) is None:
        raise ValueError(f"{origin!r} is no origin.")
    key = base64.b64encode(os.urandom(16)).decode()
    lines = [f"GET {target} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade"]
    lines += [f"Sec-WebSocket-Key: {key}", "Sec-WebSocket-Version: 13"]
    if origin:
        lines.append(f"Origin: {origin}")
    if subprotocols:
        lines.append(f"Sec-WebSocket-Protocol: {', '.join(subprotocols)}")
    if deflate:
        lines.append(f"Sec-WebSocket-Extensions: {offer(deflate)}")
    request = "\r\n".join([*lines, *_lines(headers), "", ""]).encode()
    return Asked(request, key, tuple(subprotocols), deflate)


class ResponseReader:
    """Reads one answer, however its bytes come; of one that is no 101 also the start of its body."""

    __slots__ = ("_body", "_body_bytes", "_heads", "_response")

    def __init__(self, limits: Limits | None = None) -> None:
        self._heads = HeadReader(b"HTTP/1.", limits)
        self._response: Response | None = None
        self._body = bytearray()
        self._body_bytes = BODY_BYTES_MAX

    def feed(self, data: bytes) -> tuple[Response, bytes] | None:
        """The answer and the bytes after it; None where it is not whole yet. Raises BadHead."""
        if self._response is None:
            read = self._heads.feed(data)
            if read is None:
                return None
            self._response = _response(read[0].first_line, read[0].headers)
            data = read[1]
            if self._response.status == 101:
                return self._response, data
            self._body_bytes = _body_bytes(self._response)
        self._body += data
        chunked = "transfer-encoding" in self._response.headers
        whole = len(self._body) >= self._body_bytes or (chunked and self._body.endswith(LAST_CHUNK))
        return (self._refused(self._response), b"") if whole else None

    def end(self) -> Response:
        """The answer as far as it came, where nothing more comes. Raises BadHead."""
        if self._response is None:
            raise BadHead(400, "The server went away before it had answered.")
        return self._refused(self._response)

    def _refused(self, response: Response) -> Response:
        return Response(response.status, response.reason, response.headers, bytes(self._body[: self._body_bytes]))


def check_response(asked: Asked, response: Response) -> Accepted:
    """What the server agreed to. Raises Rejected."""
    headers = response.headers
    if response.status != 101:
        where = f" (see {headers['location']})" if 300 <= response.status < 400 and "location" in headers else ""
        raise Rejected(response, f"The server answers {response.status} {response.reason}{where}.")
    if _tokens(headers.get("upgrade", "")) != ["websocket"] or "upgrade" not in _tokens(headers.get("connection", "")):
        raise Rejected(response, "The server switches to something that is no WebSocket.")
    if headers.get("sec-websocket-accept") != accept_key(asked.key):
        raise Rejected(response, "Sec-WebSocket-Accept is not the answer to our key.")
    subprotocol = headers.get("sec-websocket-protocol")
    if subprotocol is not None and subprotocol not in asked.subprotocols:
        raise Rejected(response, f"The server chose the subprotocol {subprotocol[:100]!r}, which was not offered.")
    try:
        agreed = confirm(headers.get("sec-websocket-extensions", ""), asked.deflate)
    except BadExtension as bad:
        raise Rejected(response, str(bad)) from None
    return Accepted(b"", subprotocol or "", agreed)


def _response(line: str, headers: dict[str, str]) -> Response:
    match = re.fullmatch(r"HTTP/1\.[1-9] ([1-9][0-9]{2})(?: (.*))?", line)
    if match is None:
        raise BadHead(400, f"The server does not answer in HTTP/1.1: {line[:100]!r}.")
    return Response(int(match[1]), match[2] or _phrase(int(match[1])), headers)


def _body_bytes(response: Response) -> int:
    """How much of this answer's body is worth waiting for."""
    if response.status < 200 or response.status in (204, 304):
        return 0
    length = response.headers.get("content-length", "")
    return min(BODY_BYTES_MAX, int(length[:9])) if length.isdecimal() else BODY_BYTES_MAX


# --- both


def _lines(headers: Headers) -> list[str]:
    for name, value in headers:
        if TOKEN.fullmatch(name) is None or VALUE.fullmatch(value) is None or name.lower() in OURS:
            hint = " The handshake writes it itself; see origin=, subprotocols= and deflate=."
            ours = hint if name.lower() in OURS else ""
            raise ValueError(f"{name!r}: {value!r} is no header that can be added to a handshake.{ours}")
    return [f"{name}: {value}" for name, value in headers]


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unknown"


def _tokens(value: str) -> list[str]:
    return [token.strip().lower() for token in value.split(",")]


def _is_key(key: str) -> bool:
    try:
        return len(key) == 24 and len(base64.b64decode(key, validate=True)) == 16
    except ValueError:
        return False
