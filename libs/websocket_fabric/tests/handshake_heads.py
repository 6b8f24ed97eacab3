"""Heads of HTTP messages, written by hand for the tests of both sides of the handshake."""

from __future__ import annotations

KEY = "dGhlIHNhbXBsZSBub25jZQ=="


def raw(*lines: str, first: str = "GET /chat HTTP/1.1") -> bytes:
    """A request's bytes."""
    return "\r\n".join([first, *lines, "", ""]).encode("latin-1")
