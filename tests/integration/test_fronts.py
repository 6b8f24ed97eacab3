"""nginx and Caddy with their files of deploy/ before the running product: all that a browser does, over TLS."""

from __future__ import annotations

import base64
import hashlib
import http.client
import json
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import grpc
import httpx
import pytest
from fronts import DEPLOY, HOST, Front, Ports, program, running_front
from grpc_health.v1 import health_pb2, health_pb2_grpc
from websockets.sync.client import ClientConnection, connect
from whole_product import SIMULATED_QUEUES, Reef, running_reef

from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as pb_grpc
from reef.access import create_key
from reef.records.database import Database

if TYPE_CHECKING:
    from conftest import FreePort

FRONTS = ("nginx", "caddy")
V1 = "/api/v1"
ELSEWHERE = (
    SIMULATED_QUEUES
    + """
  embed: {queue: embed, devices: ["cpu@elsewhere"], engine: simulated, streams: 1}
  index: {queue: index, devices: ["cpu@elsewhere"], engine: simulated, streams: 1}
"""
)
"""Files are received; the machine that would read them is away."""
LONG = "sea " * 150
"""Said to a simulated device, it is answered for ten seconds, or until it is stopped."""
PATIENCE_S = 30.0
FILE_BYTES = 20_000_000
"""More than the proxies let through for any other call."""
FIRST_BYTES = 5_000_000
PART_BYTES = 500_000
TUS = {"Tus-Resumable": "1.0.0"}
BYTES = TUS | {"Content-Type": "application/offset+octet-stream"}
ONCE = {
    "content-security-policy",
    "x-content-type-options",
    "x-frame-options",
    "referrer-policy",
    "strict-transport-security",
    "server",
}


@pytest.fixture(scope="module")
def ports(pick_port: FreePort) -> dict[str, Ports]:
    """Those of both proxies, which have one reef and one gRPC server behind them."""
    reef, grpc_port = pick_port(), pick_port()
    return {name: Ports(pick_port(), pick_port(), reef, grpc_port) for name in FRONTS}


@pytest.fixture(scope="module")
def reef(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, Ports]) -> Iterator[Reef]:
    """The product with the settings that both files ask for."""
    origins = ",".join(f"https://{HOST}:{one.https}" for one in ports.values())
    behind = ports["nginx"]  # the same for both
    fields = {"port": behind.reef, "grpc_port": behind.grpc, "require_api_key": True, "allowed_origins": origins}
    with running_reef(tmp_path_factory.mktemp("reef"), ELSEWHERE, **fields) as started:
        yield started


@pytest.fixture(scope="module")
def key(reef: Reef) -> str:
    """An API key."""
    database = Database(reef.settings.sqlalchemy_url)
    try:
        return create_key(database, "fronts")[0]
    finally:
        database.dispose()


@pytest.fixture(scope="module", params=FRONTS)
def front(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, ports: dict[str, Ports]
) -> Iterator[Front]:
    """Each proxy in turn."""
    name = request.param
    if program(name) is None:
        pytest.skip(f"{name} is not installed; make packages installs what the distribution has")
    with running_front(name, tmp_path_factory.mktemp(name), ports[name]) as started:
        yield started


@pytest.fixture
def browser(front: Front, reef: Reef, key: str) -> Iterator[httpx.Client]:
    """A client that logged in, as a page does."""
    with httpx.Client(base_url=front.origin, verify=front.trust(), trust_env=False, timeout=20) as client:
        answer = client.post(f"{V1}/login", json={"key": key}, headers={"Origin": front.origin})
        assert answer.status_code == 204, answer.text
        assert "; Secure" in answer.headers["Set-Cookie"], "the reef knows that TLS was spoken"
        yield client


def socket_to(front: Front, key: str) -> connect:
    """A WebSocket as a page of the reef opens it."""
    url = front.origin.replace("https", "wss", 1) + "/ws"
    headers = {"Cookie": f"reef_key={key}"}
    return connect(url, additional_headers=headers, origin=front.origin, ssl=front.trust(), proxy=None)  # type: ignore[arg-type]


def channel_to(front: Front) -> grpc.Channel:
    """A gRPC client that trusts the proxy's certificate."""
    return grpc.secure_channel(f"{HOST}:{front.ports.https}", grpc.ssl_channel_credentials(front.ca.read_bytes()))


def handshake(front: Front, key: str, origin: str) -> httpx.Response:
    """The answer to a handshake that is refused; the WebSocket client stumbles over some of these where TLS is."""
    headers = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Origin": origin,
        "Cookie": f"reef_key={key}",
    }
    return httpx.get(f"{front.origin}/ws", headers=headers, verify=front.trust(), trust_env=False)


def shake(port: int, context: ssl.SSLContext, name: str) -> str | None:
    """The version of TLS that is agreed on. Raises ssl.SSLError."""
    with (
        socket.create_connection(("127.0.0.1", port), timeout=5) as plain,
        context.wrap_socket(plain, server_hostname=name) as wrapped,
    ):
        return wrapped.version()


def events_until(opened: ClientConnection, kind: str, count: int = 1) -> list[dict[str, Any]]:
    """Events up to the n-th of a kind."""
    events: list[dict[str, Any]] = []
    while sum(event["type"] == kind for event in events) < count:
        events.append(json.loads(opened.recv(15)))
    return events


def test_pages_come_with_each_header_once(browser: httpx.Client) -> None:
    """The page and what it loads; headers of the reef are passed on, those of TLS added, none doubled."""
    page = browser.get("/")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    script = page.text.partition('<script type="module" src="')[2].partition('"')[0]
    assert browser.get(script).status_code == 200
    names = [name.lower() for name, _ in page.headers.multi_items()]
    assert {name: names.count(name) for name in ONCE} == dict.fromkeys(ONCE, 1)
    assert int(page.headers["Strict-Transport-Security"].removeprefix("max-age=")) >= 31_536_000


def test_http_leads_to_https(front: Front) -> None:
    """With method, path and query kept."""
    answer = httpx.post(f"http://{HOST}:{front.ports.http}/api/v1/chat?a=b", trust_env=False)
    assert answer.status_code == 308
    to = urlsplit(answer.headers["Location"])
    assert (to.scheme, to.hostname, to.path, to.query) == ("https", HOST, "/api/v1/chat", "a=b")


def test_old_tls_and_other_names_are_refused(front: Front) -> None:
    """TLS 1.1 is not spoken, and nobody gets a certificate by asking for another name."""
    with pytest.raises(ssl.SSLError):
        shake(front.ports.https, front.trust(), "evil.example")
    old = front.trust()
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.raises(ssl.SSLError):
        shake(front.ports.https, old, HOST)
    assert shake(front.ports.https, front.trust(), HOST) == "TLSv1.3"


def test_without_a_key_nobody_comes_in(front: Front, reef: Reef) -> None:
    """Though the proxy itself comes from loopback."""
    assert httpx.get(f"{front.origin}{V1}/personas", verify=front.trust(), trust_env=False).status_code == 401
    assert handshake(front, "none", front.origin).status_code == 401


def test_a_stream_arrives_while_it_is_made(browser: httpx.Client) -> None:
    """The first token is here while the run goes on, on both ways that stream."""
    ask = {"persona_id": "alice", "message": LONG}
    openai = {"model": "bob", "stream": True, "messages": [{"role": "user", "content": LONG}]}
    with (
        browser.stream("POST", f"{V1}/chat/stream", json=ask) as answer,
        browser.stream("POST", "/v1/chat/completions", json=openai) as other,
    ):
        lines, chunks = answer.iter_lines(), other.iter_lines()
        pieces = (line for line in chunks if '"content"' in line)
        queued = next(json.loads(line[6:]) for line in lines if line.startswith("data: "))
        assert next(line for line in lines if line == "event: token")
        completion = json.loads(next(pieces).removeprefix("data: "))["id"].removeprefix("chatcmpl-")
        running = browser.get(f"{V1}/system/jobs?state=running").json()
        assert queued["run_id"] in str(running)
        assert "bob" in str(running)
        assert len([next(pieces) for _ in range(10)]) == 10
        for run_id in (queued["run_id"], completion):
            browser.post(f"{V1}/runs/{run_id}/stop").raise_for_status()
        assert [line for line in lines if line == "event: stopped"]
        assert "data: [DONE]" in list(chunks)


def test_a_websocket_streams_and_resumes(front: Front, reef: Reef, key: str) -> None:
    """A chat over wss; a client that comes back gets exactly the rest."""
    with socket_to(front, key) as opened:
        opened.send(json.dumps({"type": "chat", "persona_id": "bob", "message": "Hello!"}))
        seen = events_until(opened, "token", 3)
    run_id, last_seq = seen[-1]["run_id"], seen[-1]["seq"]
    with socket_to(front, key) as opened:
        opened.send(json.dumps({"type": "resume", "run_id": run_id, "last_seq": last_seq}))
        rest = events_until(opened, "done")
    assert rest[0]["type"] == "resumed"
    numbers = [event["seq"] for event in seen + rest if event["seq"]]
    assert numbers == sorted(set(numbers))
    with httpx.Client(base_url=reef.url, headers={"Authorization": f"Bearer {key}"}, trust_env=False) as client:
        stored = client.get(f"{V1}/messages/{rest[-1]['message_id']}").json()["content"]
    told = "".join(event["content"] for event in seen + rest if event["type"] == "token")
    assert told.strip() == stored.strip()


def test_pages_of_other_sites_are_refused(front: Front, browser: httpx.Client, key: str) -> None:
    """Origin and Host arrive as the browser said them, so the reef's own rules hold."""
    for origin in ("https://evil.example", f"https://{HOST}:1"):
        answer = browser.post(f"{V1}/chat", json={}, headers={"Origin": origin})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
        assert handshake(front, key, origin).status_code == 403


def test_what_a_client_forwards_is_not_believed(browser: httpx.Client) -> None:
    """Headers that a proxy sets are replaced, not added to: contradicting ones would be answered with 400."""
    lies = {"X-Forwarded-Proto": "http", "X-Forwarded-Protocol": "http", "X-Forwarded-Ssl": "off"}
    answer = browser.get(f"{V1}/personas", headers=lies | {"X-Forwarded-Host": "evil.example"})
    assert answer.status_code == 200, answer.text
    assert "evil" not in answer.text


def test_an_upload_that_is_cut_goes_on_where_it_ended(front: Front, browser: httpx.Client, key: str) -> None:
    """Bytes reach the reef as they come: what was sent before the cut is there, though the request never ended."""
    content = hashlib.shake_256(b"reef").digest(FILE_BYTES)
    name = base64.b64encode(b"big.txt").decode()
    headers = TUS | {"Upload-Length": str(FILE_BYTES), "Upload-Metadata": f"filename {name}"}
    place = browser.post(f"{V1}/uploads/files", headers=headers).headers["Location"]
    cut = http.client.HTTPSConnection(HOST, front.ports.https, context=front.trust())
    cut.putrequest("PATCH", place)
    said = BYTES | {"Cookie": f"reef_key={key}", "Upload-Offset": "0", "Content-Length": str(FILE_BYTES)}
    for header, value in said.items():
        cut.putheader(header, value)
    cut.endheaders(content[:FIRST_BYTES])
    deadline = time.monotonic() + PATIENCE_S
    while _offset(browser, place) == 0:
        assert time.monotonic() < deadline, "nothing reached the reef before the request was whole"
    cut.close()
    while True:
        offset = _offset(browser, place)
        assert 0 < offset <= FIRST_BYTES
        rest = browser.patch(place, content=content[offset:], headers=BYTES | {"Upload-Offset": str(offset)})
        if rest.status_code == 204:
            break
        assert rest.status_code in (409, 423), rest.text  # the request that was cut is still ending
        assert time.monotonic() < deadline, rest.text
    document = browser.get(f"{V1}/documents/{place.rpartition('/')[2]}").json()
    assert document["sha256"] == hashlib.sha256(content).hexdigest()


def _offset(client: httpx.Client, place: str) -> int:
    return int(client.head(place, headers=TUS).headers["Upload-Offset"])


def test_a_form_with_a_large_file_is_taken_and_a_large_call_is_not(browser: httpx.Client) -> None:
    """Files may be as long as the reef allows; anything else may not."""
    files = {"file": ("big.txt", b"word " * (FILE_BYTES // 5))}
    assert browser.post(f"{V1}/documents/upload", files=files).status_code == 202
    json_type = {"Content-Type": "application/json"}
    refused = browser.post(f"{V1}/chat", content=b" " * FILE_BYTES, headers=json_type)
    # Caddy 2.6 takes a body that it cut off itself for a fault of the reef
    assert refused.status_code in (413, 502), refused.text


def test_grpc_passes(front: Front, key: str, reef: Reef) -> None:
    """A chat whose tokens arrive one by one, over HTTP/2 on the same port; who has no key is told so."""
    bearer = f"Bearer {key}"
    direct = httpx.Client(base_url=reef.url, headers={"Authorization": bearer}, trust_env=False)
    with direct, channel_to(front) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        serving = health.Check(health_pb2.HealthCheckRequest(), timeout=10).status
        assert serving == health_pb2.HealthCheckResponse.SERVING
        chat = pb_grpc.ChatStub(channel)
        said = pb.SayRequest(persona_id="alice", message=LONG, stream=True)
        with pytest.raises(grpc.RpcError) as refused:
            next(chat.Say(said, timeout=10))
        assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED
        events = chat.Say(said, metadata=(("authorization", bearer),), timeout=PATIENCE_S)
        tokens = (event for event in events if event.WhichOneof("event") == "token")
        run_id = [next(tokens) for _ in range(6)][-1].run_id
        state = direct.get(f"{V1}/runs/{run_id}").json()["state"]
        assert state == "running", "the proxy kept the tokens until the end"
        direct.post(f"{V1}/runs/{run_id}/stop").raise_for_status()
        *_, last = events
        assert last.WhichOneof("event") == "stopped"


def test_a_large_file_passes_over_grpc(front: Front, key: str, reef: Reef) -> None:
    """A stream of files is one request, longer than any other call may be."""
    del reef  # it runs
    with channel_to(front) as channel:
        documents = pb_grpc.DocumentsStub(channel)
        accepted = documents.Upload(_large_file(), metadata=(("authorization", f"Bearer {key}"),), timeout=20)
    assert [file.size_bytes for file in accepted.documents] == [FILE_BYTES]


def _large_file() -> Iterator[pb.UploadPart]:
    yield pb.UploadPart(file=pb.UploadFile(name="large.txt"))
    for _ in range(FILE_BYTES // PART_BYTES):
        yield pb.UploadPart(data=b"word " * (PART_BYTES // 5))


def test_caddys_own_checks_pass(tmp_path: Path) -> None:
    """`caddy validate` accepts the file as it is, and `caddy fmt` would write it so."""
    caddy = program("caddy")
    if caddy is None:
        pytest.skip("caddy is not installed; make packages installs what the distribution has")
    file = str(DEPLOY / "caddy/Caddyfile")
    environment = {"HOME": str(tmp_path)}
    checks = {}
    for words in (["validate", "--adapter", "caddyfile", "--config", file], ["fmt", file]):
        done = subprocess.run([caddy, *words], env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        checks[words[0]] = done.stdout
    assert checks["fmt"] == Path(file).read_text(encoding="utf-8")
