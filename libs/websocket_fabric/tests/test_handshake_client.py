"""The opening handshake of a client, rule by rule: what it asks, and which answers it takes."""

from __future__ import annotations

import pytest
from handshake_heads import KEY, raw

from websocket_fabric.deflate import Deflate
from websocket_fabric.handshake import (
    BODY_BYTES_MAX,
    Asked,
    Rejected,
    Response,
    ResponseReader,
    accept,
    accept_key,
    build_request,
    check_response,
    parse_request,
)
from websocket_fabric.heads import BadHead


def answered(
    asked: Asked, *lines: str, first: str = "HTTP/1.1 101 Switching Protocols", key: str | None = None
) -> Response:
    """A server's answer to it, read."""
    data = raw(
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(key or asked.key)}",
        *lines,
        first=first,
    )
    read = ResponseReader().feed(data)
    assert read is not None
    return read[0]


def test_a_client_and_a_server_agree() -> None:
    """On a subprotocol and on deflate; what follows the answer is left for the frames."""
    asked = build_request(
        "a.example:8080",
        "/chat?x=1",
        origin="https://a.example",
        subprotocols=["v2", "v1"],
        headers=[("Authorization", "Bearer x")],
        deflate=Deflate(),
    )
    read = parse_request(asked.request)
    assert read is not None
    assert read[0].headers["authorization"] == "Bearer x"
    assert (read[0].target, read[0].headers["host"]) == ("/chat?x=1", "a.example:8080")
    at_server = accept(read[0], origins=["https://a.example"], subprotocols=["v1"], deflate=Deflate())
    answer = ResponseReader().feed(at_server.response + b"\x81\x00")
    assert answer is not None
    at_client = check_response(asked, answer[0])
    assert answer[1] == b"\x81\x00"
    assert at_client.subprotocol == at_server.subprotocol == "v1"
    assert at_client.deflate is not None
    assert at_server.deflate is not None
    assert at_client.deflate.window_bits == at_server.deflate.peer_window_bits == 12


def test_each_request_has_a_key_of_its_own() -> None:
    """16 random bytes."""
    assert len({build_request("a").key for _ in range(50)}) == 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"host": "a b"},
        {"host": "a\r\nX: y"},
        {"target": "no-slash"},
        {"target": "/a b"},
        {"target": "/caf\xe9"},
        {"target": "/a\r\nX: y"},
        {"origin": "x\r\nY: z"},
        {"subprotocols": ["a", "a"]},
        {"subprotocols": ["a b"]},
        {"headers": [("Host", "b")]},
        {"headers": [("X", "a\nb")]},
    ],
)
def test_a_request_that_would_be_malformed_is_not_made(wrong: dict[str, object]) -> None:
    """It is the caller's mistake."""
    with pytest.raises(ValueError, match=r"is no|must be"):
        build_request(**{"host": "a", **wrong})  # type: ignore[arg-type]


def test_an_answer_must_answer_what_was_asked() -> None:
    """The key, a subprotocol and an extension that were offered, a WebSocket at all."""
    asked = build_request("a", subprotocols=["v1"])
    assert check_response(asked, answered(asked, "Sec-WebSocket-Protocol: v1")).subprotocol == "v1"
    for response, words in (
        (answered(asked, key=KEY), "not the answer to our key"),
        (answered(asked, "Sec-WebSocket-Protocol: v2"), "which was not offered"),
        (answered(asked, "Sec-WebSocket-Protocol: v1", "Sec-WebSocket-Protocol: v1"), "which was not offered"),
        (answered(asked, "Sec-WebSocket-Extensions: permessage-deflate"), "not offered"),
        (answered(asked, "Upgrade: h2c"), "no WebSocket"),
        (Response(101, "", {"upgrade": "websocket", "connection": "close"}), "no WebSocket"),
        (Response(101, "", {"upgrade": "websocket", "connection": "upgrade"}), "not the answer to our key"),
    ):
        with pytest.raises(Rejected, match=words) as rejected:
            check_response(asked, response)
        assert rejected.value.status == 101


@pytest.mark.parametrize(
    "first",
    [
        "HTTP/1.0 101 x",
        "HTTP/1.1 1O1 x",
        "HTTP/1.1 99 x",
        "HTTP/1.1 1000 x",
        "HTTP/1.1  101 x",
        "HTTP/2.0 101 x",
        "ICY 101",
    ],
)
def test_what_is_no_answer_is_no_answer(first: str) -> None:
    """Other versions, and statuses that are no numbers."""
    with pytest.raises(BadHead):
        ResponseReader().feed(raw(first=first))


def test_a_redirect_says_where_to() -> None:
    """Following it is the caller's decision."""
    asked = build_request("a")
    data = raw("Location: wss://b.example/", "Content-Length: 0", first="HTTP/1.1 301 Moved Permanently")
    read = ResponseReader().feed(data)
    assert read is not None
    with pytest.raises(Rejected, match=r"301 Moved Permanently \(see wss://b.example/\)") as rejected:
        check_response(asked, read[0])
    assert (rejected.value.status, rejected.value.location) == (301, "wss://b.example/")


def test_an_error_brings_the_start_of_its_body() -> None:
    """As long as it says, up to a bound, or what came until it ended; byte by byte too."""
    head = raw("Content-Length: 5", "Retry-After: 7", first="HTTP/1.1 503 Service Unavailable")
    reader = ResponseReader()
    data = head + b"later"
    assert [reader.feed(data[at : at + 1]) for at in range(len(data) - 1)] == [None] * (len(data) - 1)
    read = reader.feed(data[-1:])
    assert read is not None
    with pytest.raises(Rejected) as rejected:
        check_response(build_request("a"), read[0])
    assert (rejected.value.status, rejected.value.body, rejected.value.location) == (503, b"later", "")
    assert rejected.value.headers["retry-after"] == "7"

    endless = ResponseReader()
    assert endless.feed(raw(first="HTTP/1.1 500")) is None
    assert endless.feed(b"x" * 100) is None
    assert endless.end().body == b"x" * 100
    cut = endless.feed(b"x" * 100_000)
    assert cut is not None
    assert cut[0] == Response(500, "Internal Server Error", {}, b"x" * BODY_BYTES_MAX)

    chunked = ResponseReader().feed(raw("Transfer-Encoding: chunked", first="HTTP/1.1 404") + b"1\r\nx\r\n0\r\n\r\n")
    assert chunked is not None
    for status in ("103", "204", "304"):
        assert ResponseReader().feed(raw(first=f"HTTP/1.1 {status}")) is not None
    with pytest.raises(BadHead, match="went away"):
        ResponseReader().end()
