"""What the web process and its gateway say to each other over their Unix socket: one packet a message, JSON inside.

A `Handover` carries the accepted socket itself beside it (SCM_RIGHTS); an `Ask` carries none. Each is answered by one
packet. Both ends are of one installation, but one may be restarted before the other: a message of another version is
refused by who does not know it, and then the web process serves its client itself.
"""

from __future__ import annotations

from typing import Literal

import msgspec

VERSION = 1
MESSAGE_BYTES_MAX = 64 * 1024
"""A longer handshake is not handed over. The kernel's default for one packet is three times this."""
ANSWER_BYTES_MAX = 128 * 1024


class Handover(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="handover"):
    """A client whose WebSocket handshake was read and found good, and who is allowed in."""

    version: int = VERSION
    target: str
    headers: dict[str, str]
    """Names in lower case; without what says who the client is (Authorization, Cookie)."""
    address: str = ""
    request_id: str = ""
    first_bytes: bytes = b""
    """What the client sent after its handshake, read together with it."""


class Ask(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="ask"):
    """How is the gateway?"""

    version: int = VERSION


class Taken(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="taken"):
    """The socket is the gateway's from now on; nothing was written to it before."""

    version: int = VERSION


RefusedBecause = Literal["full", "stopping", "malformed"]


class Refused(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="refused"):
    """The gateway has let go of the socket untouched."""

    version: int = VERSION
    reason: RefusedBecause
    detail: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True, tag_field="type", tag="report"):
    """How the gateway is: WebSockets it holds, and what it counts, in Prometheus text format."""

    version: int = VERSION
    sockets_open: int
    metrics: str


Request = Handover | Ask
Answer = Taken | Refused | Report

encode = msgspec.json.encode
_requests: msgspec.json.Decoder[Request] = msgspec.json.Decoder(Handover | Ask)
_answers: msgspec.json.Decoder[Answer] = msgspec.json.Decoder(Taken | Refused | Report)


def decode_request(raw: bytes) -> Request:
    """What the web process sent. Raises msgspec.DecodeError, also for another version."""
    message = _requests.decode(raw)
    _check(message.version)
    return message


def decode_answer(raw: bytes) -> Answer:
    """What the gateway answered. Raises msgspec.DecodeError, also for another version."""
    message = _answers.decode(raw)
    _check(message.version)
    return message


def _check(version: int) -> None:
    if version != VERSION:
        raise msgspec.DecodeError(f"a message of version {version}, where this program speaks {VERSION}")
