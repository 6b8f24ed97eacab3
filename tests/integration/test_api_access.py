"""Who may come in: foreign sites on loopback, keys beyond it, bodies and sockets of any size."""

from __future__ import annotations

import contextlib
import socket as sockets
import subprocess
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import httpx
import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from reef.access import create_key

if TYPE_CHECKING:
    from conftest import Web

V1 = "/api/v1"


@pytest.mark.parametrize("host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example"])
def test_a_name_that_was_bent_to_us_is_refused(web: Web, host: str) -> None:
    """DNS rebinding: a foreign Host reads nothing, whatever the method."""
    with web.client() as client:
        answer = client.get(f"{V1}/personas", headers={"Host": host})
    assert (answer.status_code, answer.json()["code"]) == (403, "foreign_host")


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
        {"Sec-Fetch-Site": "cross-site"},
    ],
)
def test_a_page_of_another_site_changes_nothing(web: Web, headers: dict[str, str]) -> None:
    """Its POST is refused before anything is done; reading is left to the browser's own rules."""
    with web.client() as client:
        answer = client.post(f"{V1}/sessions", json={"persona_id": "alice"}, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
        own = {"Origin": web.url, "Sec-Fetch-Site": "same-origin"}
        assert client.post(f"{V1}/sessions", json={"persona_id": "alice"}, headers=own).status_code == 201


def test_a_form_of_another_site_is_no_request(web: Web) -> None:
    """A body that is not JSON by its Content-Type is refused, so that no plain form can speak for the user."""
    with web.client() as client:
        answer = client.post(f"{V1}/sessions", content='{"persona_id":"alice"}', headers={"Content-Type": "text/plain"})
    assert answer.status_code == 415


def test_a_foreign_page_opens_no_socket(web: Web) -> None:
    """Cross-site WebSocket hijacking ends at the handshake; our own page and programs come in."""
    with pytest.raises(InvalidStatus) as caught, connect(web.ws_url, origin="http://evil.example", proxy=None):  # type: ignore[arg-type]
        pass
    assert caught.value.response.status_code == 403
    with web.socket(origin=web.url) as client:
        client.send(type="ping")
        assert client.get() == {"type": "pong"}


def test_compression_is_not_agreed_to(web: Web) -> None:
    """The client offers permessage-deflate; we decline, so no small frame can inflate to gigabytes."""
    with web.socket(compression="deflate") as client:
        assert client.connection.protocol.extensions == []


def test_a_request_without_upgrade_is_told_what_is_missing(web: Web) -> None:
    """What a proxy leaves of a handshake when it loses `Upgrade`, `Connection` or both, and a version nobody speaks."""
    key = {"Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}
    lost: list[dict[str, str]] = [{}, key, key | {"Upgrade": "websocket"}, key | {"Connection": "Upgrade"}]
    with web.client() as client:
        for headers in lost:
            answer = client.get("/ws", headers=headers)
            assert "pass Upgrade and Connection on" in _asked_to_upgrade(answer), headers
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket"}
        old = client.get("/ws", headers=key | upgrade | {"Sec-WebSocket-Version": "8"})
        assert "Sec-WebSocket-Version must be 13" in _asked_to_upgrade(old)
        assert client.post("/ws").status_code == 405


def _asked_to_upgrade(answer: httpx.Response) -> str:
    assert (answer.status_code, answer.headers["Content-Type"]) == (426, "application/problem+json")
    said = [answer.headers[name].lower() for name in ("Upgrade", "Connection", "Sec-WebSocket-Version")]
    assert said == ["websocket", "upgrade", "13"]
    problem = answer.json()
    assert problem["code"] == "upgrade_required"
    return str(problem["detail"])


def test_a_broken_handshake_is_told_so(web: Web) -> None:
    """400 and not a failure of ours; so is one at an address that is no WebSocket."""
    broken = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    with web.client() as client:
        answer = client.get("/ws", headers=broken)
        assert (answer.status_code, answer.json()["code"]) == (400, "bad_request")
        elsewhere = client.get("/", headers=broken)
        assert (elsewhere.status_code, elsewhere.json()["code"]) == (400, "no_websocket")
        assert "/ws does" in elsewhere.json()["detail"]


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", f"{V1}/chat"),
        ("POST", f"{V1}/personas"),
        ("PUT", f"{V1}/personas/alice"),
        ("POST", "/v1/chat/completions"),
    ],
)
def test_a_body_of_ten_megabytes_is_refused_readably(web: Web, method: str, path: str) -> None:
    """The sender gets 413 to read, not a reset connection."""
    with web.client() as client:
        answer = client.request(method, path, json={"message": "x" * 10_000_000})
    assert answer.status_code == 413


def test_paths_and_methods_that_do_not_exist(web: Web) -> None:
    """404 and 405 are problems too, and 405 says what is allowed."""
    with web.client() as client:
        missing = client.get(f"{V1}/nothing")
        assert (missing.status_code, missing.headers["Content-Type"]) == (404, "application/problem+json")
        browser = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
        assert client.get(f"{V1}/nowhere", headers=browser).headers["Content-Type"] == "application/problem+json"
        page = client.get("/nowhere<b>", headers=browser)
        assert (page.status_code, page.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
        assert 'href="/"' in page.text
        assert "nowhere&lt;b&gt;" in page.text
        wrong = client.delete(f"{V1}/chat")
        assert (wrong.status_code, wrong.headers["Allow"]) == (405, "POST")
        assert wrong.json()["instance"] == f"{V1}/chat"
        for odd in ("/api/v1/personas/%00", "/api/v1/personas/..%2f..", "/api/v1/personas/" + "x" * 65, "/%ff%fe"):
            assert client.get(odd).status_code == 404


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'"x"',
        b"\xff\xfe",
        b'{"persona_id":"alice","message":5}',
        b'{"persona_id":"alice","message":""}',
        b'{"persona_id":"alice","message":"\\ud800"}',
        b'{"persona_id":"alice","message":"a\\u0000b"}',
        b'{"persona_id":"../..","message":"x"}',
        b'{"persona_id":"alice","message":"x","tokens_max":0}',
        b'{"persona_id":"alice","message":"x","tokens_max":1e400}',
        b'{"persona_id":"alice","message":"x","color":"red"}',
        b'{"persona_id":"alice","message":"' + b"x" * 32_001 + b'"}',
        b'{"a":' * 100_000,
    ],
    ids=lambda body: body[:30].decode(errors="replace"),
)
def test_a_bad_body_is_a_clear_400(web: Web, body: bytes) -> None:
    """Whatever is wrong with the JSON, the answer says so in a problem document."""
    with web.client() as client:
        answer = client.post(f"{V1}/chat", content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (400, "application/problem+json")
    assert answer.json()["detail"]


def test_odd_unicode_comes_back_as_it_was(web: Web) -> None:
    """Right-to-left, combining marks, emoji of many parts, and what looks like markup."""
    text = "שלום \u202e a\u0301\u0328 👩\u200d👩\u200d👧\u200d👦 \U0010ffff <b>&amp; \u2028"
    with web.client() as client:
        made = client.post(f"{V1}/personas", json={"name": "Odd", "description": text}).json()
        assert client.get(f"{V1}/personas/{made['id']}").json()["description"] == text


def test_beyond_loopback_a_key_is_asked_for(start_web: Callable[..., Web]) -> None:
    """Everything but health and login needs the key, by header or cookie; a key is never in an answer."""
    web = start_web(require_api_key=True)
    key, _ = create_key(web.stage.database, "test")
    with web.client() as client:
        assert client.get("/healthz").status_code == 200
        assert "checks" not in client.get("/readyz").json()
        for path in (f"{V1}/personas", f"{V1}/system/status", "/metrics", "/v1/models", f"{V1}/openapi.json"):
            refused = client.get(path)
            assert refused.status_code == 401
            assert refused.headers["WWW-Authenticate"].startswith("Bearer")
        assert client.get(f"{V1}/personas", headers={"Authorization": f"Bearer {key}x"}).status_code == 401
        assert client.get(f"{V1}/personas", headers={"Authorization": f"Bearer {key}"}).status_code == 200
        assert client.post(f"{V1}/login", json={"key": "reef_wrong"}).status_code == 401
        welcome = client.post(f"{V1}/login", json={"key": key})
        cookie = welcome.headers["Set-Cookie"]
        assert welcome.status_code == 204
        assert "HttpOnly" in cookie
        assert "SameSite=Strict" in cookie
        assert client.get(f"{V1}/personas").status_code == 200, "the cookie opens the door"
    with pytest.raises(InvalidStatus) as caught, connect(web.ws_url, proxy=None):
        pass
    assert caught.value.response.status_code == 401
    with web.socket(additional_headers={"Authorization": f"Bearer {key}"}) as opened:
        opened.send(type="ping")
        assert opened.get() == {"type": "pong"}
    with web.socket(additional_headers={"Cookie": f"reef_key={key}"}) as opened:
        opened.send(type="ping")
        assert opened.get() == {"type": "pong"}


def test_without_a_broker_url_it_says_what_to_do() -> None:
    """Started alone, the web process names the setting and the command that starts everything."""
    ran = subprocess.run(
        [sys.executable, "-m", "app.serve"], env={"PATH": "/usr/bin:/bin"}, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 2
    assert "REEF_REDIS_URL" in ran.stderr
    assert "coral-reef up" in ran.stderr


def test_a_flood_of_frames_is_held_back(web: Web) -> None:
    """A client that writes without reading is slowed down by TCP, not stored: our memory stays where it was."""
    before = _memory_bytes(web)
    ping = _frame(b'{"type":"ping"}' + b" " * 100_000)
    with sockets.create_connection(("127.0.0.1", web.settings.port), timeout=5) as raw:
        raw.setsockopt(sockets.SOL_SOCKET, sockets.SO_RCVBUF, 4096)
        raw.sendall(_handshake(web.settings.port))
        assert b"101" in raw.recv(1024)
        raw.settimeout(20.0)
        for _ in range(11):
            raw.sendall(ping)
        raw.settimeout(1.0)
        with contextlib.suppress(TimeoutError, ConnectionError):
            for _ in range(1500):
                raw.sendall(ping)
    assert _memory_bytes(web) - before < 40_000_000
    with web.client() as client:
        assert client.get("/healthz").status_code == 200


def _handshake(port: int) -> bytes:
    return (
        f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
    ).encode()


def _frame(payload: bytes) -> bytes:
    header = b"\x81\xff" + len(payload).to_bytes(8, "big") + b"\x00\x00\x00\x00"
    return header + payload


def _memory_bytes(web: Web) -> int:
    import psutil

    assert web.process is not None
    family = [psutil.Process(web.process.pid), *psutil.Process(web.process.pid).children()]
    return sum(process.memory_info().rss for process in family)


def test_the_web_process_is_small(web: Web) -> None:
    """Parent and worker together stay below 150 MB."""
    with web.client() as client:
        client.get(f"{V1}/system/status")
        client.get(f"{V1}/openapi.json")
    assert _memory_bytes(web) < 150_000_000


def test_a_message_in_a_thousand_pieces_arrives_whole(web: Web) -> None:
    """Fragments of one byte are put together; too many of them are one clear error."""
    whole = b'{"type":"ping"}'
    with sockets.create_connection(("127.0.0.1", web.settings.port), timeout=5) as raw:
        raw.sendall(_handshake(web.settings.port))
        answer = raw.recv(1024)
        assert b"101" in answer
        pieces = [whole[n : n + 1] for n in range(len(whole))]
        for n, piece in enumerate(pieces):
            opcode = (0x01 if n == 0 else 0x00) | (0x80 if n == len(pieces) - 1 else 0)
            raw.sendall(bytes([opcode, 0x81]) + b"\x00\x00\x00\x00" + piece)
        assert raw.recv(1024).endswith(b'{"type":"pong"}')
