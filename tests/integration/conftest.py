"""A web process of our own with a real broker and database, and a device that is played by hand."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol

import httpx
import msgspec
import pytest
import redis
import sqlalchemy as sa
from gateway_host import GatewayHost
from websockets.sync.client import ClientConnection, connect

from reef import keys, streams
from reef.contracts.events import Done, Event, RunEvent, Started, Stopped, Token, Typing, Usage, decode
from reef.contracts.jobs import ChatJob, EmbedTextsJob, InferenceJob, QueryJob
from reef.contracts.nodes import NodeReport
from reef.conversation import store
from reef.ledger import Claim, JobRecord, Ledger
from reef.records.database import Database, migrate
from reef.records.tables import jobs
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
NODE = "chat-simulated"
RESULTS: dict[str, dict[str, Any]] = {
    QueryJob.TASK: {"passages": [], "model": "played", "tokens": 1, "embed_s": 0.0, "search_s": 0.0},
    EmbedTextsJob.TASK: {"vectors": ["AACAPw=="], "model": "played", "tokens": 1},
    InferenceJob.TASK: {"model": "played", "device": "simulated", "outputs": [], "labels": [], "device_s": 0.0},
}
"""What a device that is played by hand says to who waits for a job of another kind."""
PATIENCE_S = 15.0


class Broker(Protocol):
    """What the fixtures of tests/conftest.py give."""

    url: str


class FreePort(Protocol):
    """Gives a port nobody listens on."""

    def __call__(self) -> int: ...


class Act:
    """One attempt at a run, played by hand: its events, its end."""

    def __init__(self, stage: Stage, claim: Claim) -> None:
        self.stage, self.claim = stage, claim
        self.n = 0
        self.text = ""

    def emit(self, event: Event) -> int:
        """Append an event with its number."""
        self.n += 1
        seq = streams.number(self.claim.token, self.n)
        job = self.claim.job
        event = msgspec.structs.replace(event, run_id=job.id, session_id=job.session_id or "", seq=seq)
        streams.append(self.stage.redis, [event])
        return seq

    def begin(self) -> Act:
        """Say that the device took it."""
        self.emit(Started(persona_id=self.persona_id, device="simulated", model="test-model"))
        self.emit(Typing(persona_id=self.persona_id))
        return self

    @property
    def persona_id(self) -> str:
        return str(json.loads(self.claim.job.payload).get("persona_id") or "")

    def say(self, *pieces: str) -> Act:
        """Add text."""
        for piece in pieces:
            self.text += piece
            self.emit(Token(content=piece))
        return self

    def store_end(self, state: str = "done") -> Event:
        """Make the end durable and give the event that tells it."""
        usage = Usage(7, len(self.text.split()))
        job = self.claim.job
        result: dict[str, Any] = {"usage": usage, "finish_reason": "stop" if state == "done" else "cancelled"}
        message_id = ""
        message: store.Message | None = None
        if job.task == ChatJob.TASK:
            chat = msgspec.json.decode(job.payload, type=ChatJob)
            message_id = chat.reply_message_id
            message = store.new_message(
                chat.session_id,
                "assistant",
                self.text,
                id=message_id,
                persona_id=chat.persona_id,
                run_id=job.id,
                usage=usage,
                state="complete" if state == "done" else "stopped",
            )
            result["message_id"] = message_id
        elif job.task in RESULTS:
            result = RESULTS[job.task]
        else:
            result["content"] = self.text

        def write(connection: sa.Connection) -> None:
            if message is not None:
                store.add_message(connection, message)

        assert self.stage.ledger.finish(self.claim, state, result=result, within=write)
        if state == "cancelled":
            return Stopped(usage=usage, message_id=message_id)
        return Done(usage=usage, message_id=message_id)

    def finished(self) -> Act:
        """End it well."""
        self.done()
        return self

    def done(self) -> str:
        """End it well; gives the id of the reply's message."""
        final = self.store_end()
        self.emit(final)
        return getattr(final, "message_id", "")


class Stage:
    """Ledger, streams and heartbeat from a worker's side."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.database = Database(settings.sqlalchemy_url)
        self.ledger = Ledger(self.database)
        self.redis = redis.Redis.from_url(settings.redis_url)

    def waiting(self) -> list[str]:
        """Runs that wait, oldest first."""
        query = sa.select(jobs.c.id).where(jobs.c.state == "queued").order_by(jobs.c.created_at)
        with self.database.read() as connection:
            return list(connection.execute(query).scalars())

    def take(self, run_id: str = "") -> Act:
        """Claim this run, or the next one that waits."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            for candidate in [run_id] if run_id else self.waiting():
                claim = self.ledger.claim(candidate, NODE, 30.0)
                if claim is not None:
                    return Act(self, claim)
            time.sleep(0.005)
        raise AssertionError(f"no run to take: {run_id or 'none waits'}")

    def record(self, run_id: str) -> JobRecord:
        return self.ledger.get(run_id)

    def report(self, **fields: Any) -> None:
        """Be alive, as a worker would say it."""
        said = {"node": NODE, "pool": "chat", "device": "simulated", "kind": "simulated", "host": "here", "pid": 1}
        report = NodeReport(**(said | {"at": time.time(), "state": "ready", "model": "test-model"} | fields))
        self.redis.hset(keys.NODES, NODE, msgspec.json.encode(report))  # type: ignore[arg-type]

    def close(self) -> None:
        """Let go of database and broker."""
        self.database.dispose()
        self.redis.close()

    def clear(self) -> None:
        """End what waits or runs, so that tests do not meet each other's jobs."""
        with self.database.write() as connection:
            connection.execute(jobs.update().where(jobs.c.state.in_(("queued", "running"))).values(state="cancelled"))
        self.redis.delete(keys.NODES)


class Answerer:
    """A device that answers every run with the same text, in a thread."""

    def __init__(self, stage: Stage, text: str = "Hello from the reef.") -> None:
        self.stage, self.text = stage, text
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(0.005):
            for run_id in self.stage.waiting():
                claim = self.stage.ledger.claim(run_id, NODE, 30.0)
                if claim is not None:
                    act = Act(self.stage, claim).begin()
                    act.say(*(word + " " for word in self.text.split(" ")))
                    with contextlib.suppress(sa.exc.IntegrityError):  # its session was deleted meanwhile
                        act.done()

    def close(self) -> None:
        self._stop.set()
        self._thread.join(10)


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
        """All events up to the first of these types."""
        events = []
        while True:
            events.append(self.get(timeout_s))
            if events[-1]["type"] in types:
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
    """Ports below the range of outgoing connections."""
    import socket

    taken: set[int] = set()

    def pick() -> int:
        for port in range(26_000 + os.getpid() % 4_000, 32_000):
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in taken:
                taken.add(port)
                return port
        raise RuntimeError("no free port")

    return pick


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
