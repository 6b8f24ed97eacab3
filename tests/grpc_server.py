"""The gRPC API as the gateway serves it: in a uvloop loop of its own, here in a thread, with the product's parts."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import grpc
import uvloop
from grpc import StatusCode
from services import free_port

from app import services
from app.gateway.subscription import LoopSubscription
from app.gateway.threads import Threads
from app.grpc_api import server
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.generated import coral_reef_pb2_grpc as stubs
from app.services import Services
from reef.settings import Settings

PATIENCE_S = 15.0
ROOT = Path(__file__).parent.parent
T = TypeVar("T")
Events = list[pb.RunEvent]


class Served:
    """A running gRPC server."""

    def __init__(self, settings: Settings, host: str) -> None:
        self.settings, self.host, self.port = settings, host, free_port()
        self.target = f"127.0.0.1:{self.port}"
        self.loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.reef: Services
        self.server: server.GrpcServer | None = None
        self.threads: Threads

    def start(self) -> None:
        """Start and listen."""
        self._thread.start()
        self.do(self._start())

    async def _start(self) -> None:
        subscription = LoopSubscription(self.settings.redis_url)
        self.reef = services.build(self.settings, process="gateway", subscription=subscription)
        self.threads = Threads()
        self.server = await server.start(self.reef, self.threads, host=self.host, port=self.port)

    def stop(self) -> None:
        """Stop in good order."""
        if self.loop.is_closed():
            return
        self.do(self._stop())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(PATIENCE_S)
        self.loop.close()
        self.reef.redis.close()
        self.reef.database.dispose()

    async def _stop(self) -> None:
        if self.server is not None:
            await self.server.stop()
        self.reef.close()
        await asyncio.sleep(0)
        self.threads.close()

    def do(self, work: Coroutine[Any, Any, T]) -> T:
        """Have the server's loop do this."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(PATIENCE_S)

    def ask(self, function: Callable[[], T]) -> T:
        """Call this in the server's loop."""

        async def called() -> T:
            return function()

        return self.do(called())

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()


class Caller:
    """A client: a channel and our services."""

    def __init__(self, channel: grpc.Channel) -> None:
        self.channel = channel
        self.chat = stubs.ChatStub(channel)
        self.group = stubs.GroupStub(channel)
        self.personas = stubs.PersonasStub(channel)
        self.documents = stubs.DocumentsStub(channel)
        self.system = stubs.SystemStub(channel)


@contextmanager
def serving(settings: Settings, host: str = "127.0.0.1") -> Iterator[Served]:
    """The gRPC API of a reef with these settings."""
    served = Served(settings, host)
    try:
        served.start()
        yield served
    finally:
        served.stop()


@contextmanager
def calling(target: str, **options: Any) -> Iterator[Caller]:
    """A client with a connection of its own."""
    own = {"grpc.use_local_subchannel_pool": 1, **options}
    with grpc.insecure_channel(target, options=list(own.items())) as channel:
        yield Caller(channel)


def refused(error: grpc.RpcError) -> tuple[grpc.StatusCode, dict[str, str]]:
    """The status of a refusal and what it says to programs."""
    said = {name: value for name, value in error.trailing_metadata() or () if isinstance(value, str)}  # type: ignore[attr-defined]
    return error.code(), said  # type: ignore[attr-defined]


def kinds(events: Events) -> list[str]:
    """Kinds of events, readings of the queue left out."""
    return [event.WhichOneof("event") or "" for event in events if event.seq]


def text(events: Events) -> str:
    """What was said in them."""
    return "".join(event.token.content for event in events)


def until(true: Callable[[], bool]) -> None:
    """Wait until it is."""
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def until_quiet(served: Served) -> None:
    """Wait until no call hears anything any more."""
    until(lambda: not served.ask(lambda: served.reef.counts.streams_open or served.reef.relay.listening))


def code_of(call: Callable[[], Any]) -> StatusCode:
    """How a call ends."""
    try:
        call()
    except grpc.RpcError as error:
        return refused(error)[0]
    return StatusCode.OK


def run_documented(number: int, target: str, directory: Path) -> str:
    """Run the n-th program of docs/grpc.md in that directory, with a client made as the document says; its output."""
    text = (ROOT / "docs" / "grpc.md").read_text(encoding="utf-8")
    (command,) = re.findall(r"^    python (-m grpc_tools\.protoc .*)$", text, re.MULTILINE)
    program = re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)[number]
    (directory / "proto").symlink_to(ROOT / "proto")
    subprocess.run([sys.executable, *command.split()], cwd=directory, check=True)
    (directory / "program.py").write_text(program.replace("127.0.0.1:8090", target), encoding="utf-8")
    ran = subprocess.run(
        [sys.executable, "-W", "error", "program.py"],
        cwd=directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return ran.stdout
