"""The opening handshake of a server, rule by rule; and that reading it costs no more than its bytes."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
from handshake_heads import KEY, raw

from websocket_fabric.deflate import Deflate
from websocket_fabric.handshake import (
    Refused,
    Request,
    RequestReader,
    accept,
    parse_request,
    refusal,
)
from websocket_fabric.limits import Limits

HEADERS = {
    "host": "server.example.com",
    "upgrade": "websocket",
    "connection": "Upgrade",
    "sec-websocket-key": KEY,
    "sec-websocket-version": "13",
}


def request(**changed: str | None) -> Request:
    """A good request, with headers changed, added or (None) left out; `_` stands for `-`."""
    headers: dict[str, str | None] = {**HEADERS, **{name.replace("_", "-"): value for name, value in changed.items()}}
    return Request("/chat", {name: value for name, value in headers.items() if value is not None})


def lines_of(response: bytes) -> list[str]:
    """Of an answer's head."""
    return response.partition(b"\r\n\r\n")[0].decode("ascii").split("\r\n")


# --- reading a request


def test_a_request_is_read_with_what_follows_it() -> None:
    """Names in lower case, values without the space around them, repeated ones joined."""
    data = raw("Host: a.example", "X-Mixed:\t b ", "x-mixed: c", "Empty:")
    read = parse_request(data + b"\x81\x00")
    assert read == (Request("/chat", {"host": "a.example", "x-mixed": "b, c", "empty": ""}), b"\x81\x00")


def test_a_request_may_come_byte_by_byte() -> None:
    """And is whole with its last byte, not before."""
    data = raw("Host: a.example")
    reader = RequestReader()
    assert [reader.feed(data[at : at + 1]) for at in range(len(data) - 1)] == [None] * (len(data) - 1)
    assert reader.feed(data[-1:] + b"rest") == (Request("/chat", {"host": "a.example"}), b"rest")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (raw(first="POST /chat HTTP/1.1"), 400),
        (raw(first="get /chat HTTP/1.1"), 400),
        (b"\x16\x03\x01\x02\x00", 400),
        (b"PRI * HTTP/2.0\r\n\r\n", 400),
        (raw(first="GET  /chat HTTP/1.1"), 400),
        (raw(first="GET /chat"), 400),
        (raw(first="GET chat HTTP/1.1"), 400),
        (raw(first="GET /a b HTTP/1.1"), 400),
        (raw(first="GET /chat HTTP/1.1 "), 400),
        (raw(first="GET /chat http/1.1"), 400),
        (raw(first="GET /chat HTTP/1.11"), 400),
        (raw(first="GET /chat HTTP/1.0"), 505),
        (raw(first="GET /chat HTTP/0.9"), 505),
        (raw(first="GET /chat HTTP/2.0"), 505),
        (raw("Host : a"), 400),
        (raw(": a"), 400),
        (raw("no colon"), 400),
        (raw("Host: a", " folded: b"), 400),
        (raw("Host: a", "\tfolded"), 400),
        (raw("X: a\x00b"), 400),
        (raw("X: a\nY: b"), 400),
        (raw("X: a\rY: b"), 400),
        (raw("X: caf\xe9"), 400),
        (raw("X\xe9: a"), 400),
        (raw("X(: a"), 400),
        (raw("Host: a", "Host: a"), 400),
        (raw("Host: a", "HOST: b"), 400),
        (raw(f"Sec-WebSocket-Key: {KEY}", f"Sec-WebSocket-Key: {KEY}"), 400),
        (raw("Sec-WebSocket-Version: 13", "Sec-WebSocket-Version: 13"), 400),
        (raw("Origin: https://a", "Origin: https://b"), 400),
        (raw("Content-Length: 0", "Content-Length: 0"), 400),
    ],
)
def test_what_is_no_handshake_is_refused(data: bytes, status: int) -> None:
    """Other methods and versions, folded lines, control characters, other than ASCII, headers twice."""
    with pytest.raises(Refused) as refused:
        parse_request(data)
    assert refused.value.status == status
    assert refused.value.reason


@pytest.mark.parametrize("first", ["GET / HTTP/1.1", "GET /a?b=%20c HTTP/1.2", "GET http://a.example/b HTTP/1.1"])
def test_targets_and_later_versions(first: str) -> None:
    """Both forms of a target; RFC 6455 wants HTTP/1.1 or higher."""
    read = parse_request(raw("Host: a", first=first))
    assert read is not None
    assert read[0].target == first.split()[1]


def test_a_head_is_bounded_in_bytes_and_lines() -> None:
    """Exactly the limit is taken; one more is answered with 431, whole or not."""
    limits = Limits(handshake_bytes_max=200, handshake_headers_max=5)
    padding = 200 - len(raw("X: "))
    assert parse_request(raw("X: " + "a" * padding), limits) is not None
    assert parse_request(raw(*["X: a"] * 5), limits) is not None
    for data in (
        raw("X: " + "a" * (padding + 1)),
        b"GET /" + b"a" * 195,
        b"GET /" + b"a" * 100_000,
        raw(*["X: a"] * 6),
    ):
        with pytest.raises(Refused) as refused:
            parse_request(data, limits)
        assert refused.value.status == 431


def test_bytes_that_come_one_by_one_cost_no_more_than_their_number() -> None:
    """Four times the bytes: about four times the time."""

    def took_s(size: int) -> float:
        best = float("inf")
        for _ in range(3):
            reader = RequestReader(Limits(handshake_bytes_max=1 << 20))
            reader.feed(b"GET /")
            begun = time.thread_time()
            for _byte in range(size):
                reader.feed(b"\r")
            best = min(best, time.thread_time() - begun)
        return best

    times = [took_s(size) for size in (4_000, 16_000, 64_000)]
    assert all(later / earlier < 10 for earlier, later in pairwise(times)), times


# --- accepting it


def test_the_answer_of_the_rfc() -> None:
    """Section 1.3: the key of its example, and nothing that was not asked."""
    accepted = accept(request(sec_websocket_protocol="chat", sec_websocket_extensions="permessage-deflate"))
    assert lines_of(accepted.response) == [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=",
    ]
    assert accepted.response.endswith(b"\r\n\r\n")
    assert (accepted.subprotocol, accepted.deflate) == ("", None)


@pytest.mark.parametrize(
    "changed",
    [
        {"upgrade": "h2c, WebSocket"},
        {"connection": "keep-alive, upgrade"},
        {"host": "[::1]:8080"},
        {"host": "a.example:443"},
        {"content_length": "0"},
    ],
)
def test_lists_and_letter_case_are_read_as_http_has_them(changed: dict[str, str]) -> None:
    """Firefox sends `Connection: keep-alive, Upgrade`."""
    assert accept(request(**changed)).response.startswith(b"HTTP/1.1 101 ")


@pytest.mark.parametrize(
    ("changed", "status"),
    [
        ({"host": None}, 400),
        ({"host": ""}, 400),
        ({"host": "a b"}, 400),
        ({"host": "a/b"}, 400),
        ({"host": "user@a"}, 400),
        ({"host": "a, b"}, 400),
        ({"upgrade": None}, 426),
        ({"upgrade": "h2c"}, 426),
        ({"upgrade": "websockets"}, 426),
        ({"connection": None}, 400),
        ({"connection": "close"}, 400),
        ({"sec_websocket_version": None}, 426),
        ({"sec_websocket_version": "8"}, 426),
        ({"sec_websocket_version": "13, 8"}, 426),
        ({"sec_websocket_key": None}, 400),
        ({"sec_websocket_key": ""}, 400),
        ({"sec_websocket_key": KEY[:-2]}, 400),
        ({"sec_websocket_key": KEY + "AAAA"}, 400),
        ({"sec_websocket_key": "d GhlIHNhbXBsZSBub25jZQ="}, 400),
        ({"content_length": "5"}, 400),
        ({"transfer_encoding": "chunked"}, 400),
        ({"sec_websocket_protocol": "a b"}, 400),
        ({"sec_websocket_protocol": "a,, b"}, 400),
        ({"sec_websocket_protocol": "a, a"}, 400),
        ({"sec_websocket_protocol": ""}, 400),
        ({"sec_websocket_extensions": "a b"}, 400),
    ],
)
def test_a_handshake_that_lacks_something_is_refused(changed: dict[str, str | None], status: int) -> None:
    """With the status that says what."""
    with pytest.raises(Refused) as refused:
        accept(request(**changed), deflate=Deflate())
    assert refused.value.status == status


@pytest.mark.parametrize(
    "origin",
    [
        None,
        "https://a.example",
        "HTTPS://A.Example",
        "https://a.example:443",
        "http://b.example:8080",
        "null",
        "http://[::1]",
    ],
)
def test_origins_of_the_list_may_come(origin: str | None) -> None:
    """In any letter case, with or without the port that the scheme has anyway; who names none is no browser."""
    origins = ["https://A.example", "http://b.example:8080", "null", "http://[::1]:80"]
    assert accept(request(origin=origin), origins=origins).response


@pytest.mark.parametrize(
    "origin",
    [
        "http://a.example",
        "https://a.example:8443",
        "https://a.example.evil.example",
        "https://evil.example",
        "https://a.example@evil.example",
        "https://user@a.example",
        "https://a.example/",
        "https://a.exa\tmple",
        "https://a.example:x",
        "https://a.example, https://evil.example",
        "http://b.example",
        "null",
        "",
    ],
)
def test_other_origins_may_not(origin: str) -> None:
    """403; what looks alike is not alike."""
    with pytest.raises(Refused) as refused:
        accept(request(origin=origin), origins=["https://a.example", "http://b.example:8080"])
    assert refused.value.status == 403


def test_without_a_list_any_origin_may_come_and_a_bad_list_is_an_error() -> None:
    """An entry that could never match is the operator's mistake, and is said."""
    assert accept(request(origin="https://evil.example")).response
    with pytest.raises(ValueError, match="without a path"):
        accept(request(origin="https://a.example"), origins=["https://a.example/"])


def test_the_servers_favourite_subprotocol_is_chosen() -> None:
    """Of those that were offered; none where there is none in common."""
    offered = request(sec_websocket_protocol="a, b,c")
    accepted = accept(offered, subprotocols=["x", "c", "a"])
    assert accepted.subprotocol == "c"
    assert "Sec-WebSocket-Protocol: c" in lines_of(accepted.response)
    for other in (accept(offered, subprotocols=["A"]), accept(request(), subprotocols=["a"])):
        assert other.subprotocol == ""
        assert b"Protocol:" not in other.response


def test_more_headers_can_be_answered_but_not_those_of_the_handshake() -> None:
    """And none that would begin a line of its own."""
    accepted = accept(request(), headers=[("Set-Cookie", "a=b"), ("Server", "reef")])
    assert lines_of(accepted.response)[-2:] == ["Set-Cookie: a=b", "Server: reef"]
    for name, value in (
        ("A", "b\r\nC: d"),
        ("A\r\nB", "c"),
        ("Upgrade", "x"),
        ("sec-websocket-accept", "x"),
        ("", "x"),
    ):
        with pytest.raises(ValueError, match="no header that can be added"):
            accept(request(), headers=[(name, value)])


def test_a_refusal_is_an_http_answer() -> None:
    """With its status, its reason, and for 426 what is spoken here."""
    assert lines_of(refusal(Refused(403, "Not from there."), headers=[("Retry-After", "5")])) == [
        "HTTP/1.1 403 Forbidden",
        "Connection: close",
        "Content-Type: text/plain; charset=utf-8",
        "Content-Length: 16",
        "Retry-After: 5",
    ]
    assert refusal(Refused(403, "Not from there.")).endswith(b"\r\n\r\nNot from there.\n")
    assert "Sec-WebSocket-Version: 13" in lines_of(refusal(Refused(426, "x")))
    assert lines_of(refusal(Refused(599, "x")))[0] == "HTTP/1.1 599 Unknown"
