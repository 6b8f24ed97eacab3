"""A web process of our own with a real broker and database, and a device that is played by hand."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import pytest
from gateway_host import GatewayHost
from played_device import Answerer, Stage
from services import free_port
from websockets.sync.client import ClientConnection, connect

from reef.contracts.events import RunEvent, decode
from reef.records.database import migrate
from reef.settings import Settings

QUEUES = """
version: 1
pools:
  chat:
    queue: chat
    devices: [simulated]
    engine: simulated
    model: test-model
    streams: 4
    limits: {waiting_max: 8, deadline_s: 30, attempts_max: 3, tokens_max: 64}
  embed: {queue: embed, devices: [simulated], engine: simulated, streams: 4}
  index: {queue: index, devices: [simulated], engine: simulated, streams: 2}
  media: {queue: media, devices: [simulated], engine: simulated, streams: 2}
"""
PATIENCE_S = 15.0


class Broker(Protocol):
    """What the fixtures of tests/conftest.py give."""

    url: str


class FreePort(Protocol):
    """Gives a port nobody listens on."""

    def __call__(self) -> int: ...


class Web:
    """A running web process."""

    def __init__(self, settings: Settings, stage: Stage | None = None) -> None:
        self.settings = settings
        self.url = f"http://127.0.0.1:{settings.port}"
        self.ws_url = f"ws://127.0.0.1:{settings.port}/ws"
        self.stage = stage or Stage(settings)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start and wait until it answers."""
        environment = os.environ | self.settings.environment()
        self.process = subprocess.Popen([sys.executable, "-m", "app.serve"], env=environment)
        deadline = time.monotonic() + 30
        while True:
            assert self.process.poll() is None, "the web process ended"
            try:
                if httpx.get(f"{self.url}/healthz", trust_env=False).status_code == 200:
                    return
            except httpx.TransportError:
                assert time.monotonic() < deadline, "the web process does not answer"
                time.sleep(0.02)

    def stop(self, *, kill: bool = False) -> None:
        """End it and wait."""
        if self.process is not None:
            if kill:
                self.process.kill()
            else:
                self.process.terminate()
            self.process.wait(20)
            self.process = None

    def client(self, **options: Any) -> httpx.Client:
        """An HTTP client for it."""
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, trust_env=False, **options)

    def metrics(self) -> str:
        """What it counts."""
        with self.client() as http:
            return http.get("/metrics").text

    def socket(self, at: str = "", **options: Any) -> Socket:
        """A WebSocket to it, or to what serves its sessions at another address."""
        return Socket(connect(at or self.ws_url, open_timeout=PATIENCE_S, proxy=None, **options))


class WebAndGateway(Web):
    """A running web process whose WebSockets the gateway's host has."""

    def __init__(self, web: Web, gateway: GatewayHost) -> None:
        super().__init__(web.settings, web.stage)
        self.ws_url, self.gateway = gateway.url, gateway

    def metrics(self) -> str:
        """What the gateway counts."""
        return self.gateway.metrics()


class Socket:
    """A WebSocket client that speaks JSON."""

    def __init__(self, connecting: connect) -> None:
        self._connecting = connecting

    def __enter__(self) -> Socket:
        self.connection: ClientConnection = self._connecting.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._connecting.__exit__(*error)

    def send(self, **frame: Any) -> None:
        self.connection.send(json.dumps(frame))

    def get(self, timeout_s: float = PATIENCE_S) -> dict[str, Any]:
        """The next event."""
        event: dict[str, Any] = json.loads(self.connection.recv(timeout=timeout_s))
        return event

    def until(self, *types: str, timeout_s: float = PATIENCE_S) -> list[dict[str, Any]]:
        """All events up to the first of these types. Readings of the queue are left out: the clock tells those."""
        events: list[dict[str, Any]] = []
        while not events or events[-1]["type"] not in types:
            event = self.get(timeout_s)
            if event["type"] != "queued" or event["seq"]:
                events.append(event)
        return events

    def chat(self, message: str = "hello", persona_id: str = "alice", **fields: Any) -> dict[str, Any]:
        """Say something; gives the `queued` event."""
        self.send(type="chat", persona_id=persona_id, message=message, **fields)
        return self.until("queued", "error")[-1]


def told_text(events: list[dict[str, Any]]) -> str:
    """The text a client has after these events."""
    text = ""
    for event in events:
        if event["type"] == "restarted":
            text = ""
        elif event["type"] == "token":
            text += event["content"]
    return text


def parse_sse(lines: Iterator[str]) -> Iterator[tuple[str, RunEvent]]:
    """The (id, event) pairs of an event stream."""
    identity, data = "", ""
    for line in lines:
        if line.startswith("id: "):
            identity = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif line == "" and data:
            yield identity, decode(data)
            identity, data = "", ""


def web_settings(directory: Path, redis_url: str, port: int, queues: str = QUEUES, **fields: Any) -> Settings:
    """Settings of a process with a fresh database."""
    queues_file = directory / "queues.yaml"
    queues_file.write_text(queues, encoding="utf-8")
    settings = Settings(data_dir=directory, port=port, redis_url=redis_url, queues_file=queues_file).changed(**fields)
    migrate(settings.sqlalchemy_url)
    return settings


@contextmanager
def running_web(directory: Path, redis_url: str, port: int, *, queues: str = QUEUES, **fields: Any) -> Iterator[Web]:
    """A web process with a fresh database."""
    web = Web(web_settings(directory, redis_url, port, queues, **fields))
    try:
        web.start()
        yield web
    finally:
        web.stop()
        web.stage.close()


@pytest.fixture(scope="session")
def text_of() -> Callable[[list[dict[str, Any]]], str]:
    """The text a client has after some events."""
    return told_text


@pytest.fixture(scope="session")
def sse_of() -> Callable[[Iterator[str]], Iterator[tuple[str, RunEvent]]]:
    """Reads an event stream."""
    return parse_sse


@pytest.fixture(scope="session")
def queues_text() -> str:
    """Pools whose devices are played by hand."""
    return QUEUES


@pytest.fixture(scope="session")
def stage_of() -> Callable[[Settings], Stage]:
    """Makes the device side of a reef with these settings."""
    return Stage


@pytest.fixture(scope="session")
def answerer_of() -> Callable[[Stage], Answerer]:
    """Makes a device that answers everything; close it."""
    return Answerer


@pytest.fixture
def start_web(tmp_path: Path, own_redis: Broker, pick_port: FreePort) -> Iterator[Callable[..., Web]]:
    """Starts web processes of this test's own on its own broker, which it may kill."""
    with contextlib.ExitStack() as stack:
        places = iter(range(100))

        def start(**fields: Any) -> Web:
            directory = tmp_path / f"web{next(places)}"
            directory.mkdir()
            return stack.enter_context(running_web(directory, own_redis.url, pick_port(), **fields))

        yield start


@pytest.fixture(scope="module")
def shared_web(tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, pick_port: FreePort) -> Iterator[Web]:
    """One web process for the tests of a file that do not break it."""
    with running_web(tmp_path_factory.mktemp("web"), shared_redis.url, pick_port()) as web:
        yield web


@pytest.fixture(scope="module")
def shared_gateway(shared_web: Web, pick_port: FreePort) -> Iterator[WebAndGateway]:
    """The shared web process and a gateway."""
    gateway = GatewayHost(shared_web.settings, pick_port())
    web = WebAndGateway(shared_web, gateway)
    yield web
    gateway.close()


@pytest.fixture(scope="module")
def lone_gateway(
    tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, pick_port: FreePort
) -> Iterator[WebAndGateway]:
    """A gateway without a web process, which the tests of a file share."""
    web = Web(web_settings(tmp_path_factory.mktemp("gateway"), shared_redis.url, pick_port()))
    gateway = GatewayHost(web.settings, pick_port())
    yield WebAndGateway(web, gateway)
    gateway.close()
    web.stage.close()


@pytest.fixture(scope="session")
def pick_port() -> FreePort:
    """Ports that nobody else is given."""
    return free_port


@pytest.fixture
def web(shared_web: Web) -> Iterator[Web]:
    """The shared web process, with no job left over."""
    shared_web.stage.clear()
    yield shared_web
    shared_web.stage.clear()


@pytest.fixture
def stage(web: Web) -> Stage:
    """The device of `web`, played by hand."""
    return web.stage


@pytest.fixture
def answering(web: Web) -> Iterator[Answerer]:
    """A device that answers everything."""
    answerer = Answerer(web.stage)
    yield answerer
    answerer.close()
