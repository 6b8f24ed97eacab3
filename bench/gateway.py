"""A token from Redis to the client: through the gateway, and through the web process alone, in turn in one run.

The sockets are opened as a user's are, through /ws of the web process; each follows a run of its own. The client is the
load client of websocket_fabric, which checks that no event is missing; the publisher is bench/publishing.py.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any
from urllib.parse import urlsplit

import msgspec
import psutil
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed

from bench.figures import median
from bench.machine import ROOT
from bench.product import Product, queues, running
from bench.publishing import TOKEN, Published
from bench.report import Goal, Report, Table
from bench.simulated import AT_ONCE
from reef import streams
from reef.settings import inherited_environment

GATEWAY, WEB = "gateway", "web process alone (flask-sock)"
SOCKETS = 100
ROUNDS = 2
"""Memory is taken in each: of sessions that begin one after the other, then of all at once."""
RATES = (2_000, 30_000)
SECONDS = 5.0
WARM_S = 0.5
DRAIN_S = 6.0
"""For what a path has not delivered when the publisher stops; a path that needs longer has not kept up."""
MANY = {GATEWAY: 10_000, WEB: 900}
"""Open sockets whose memory is measured; the web process alone takes 1,000."""
MANY_WAIT_S = 60.0
DIALLED = 16
"""Handshakes at a time: as many as the web process hands over at once, or it keeps some that had to wait."""
RESUMES_AT_ONCE, PAUSE_S = 100, 0.1
"""Sessions begin at 1,000 a second, unless all come back at once."""
LOSS_S = 15.0
LEAVES_EVERY_S = 2.0
"""A socket is dropped this often, on average."""
P95_MAX_S, KILOBYTES_MAX = 0.001, 10.0
ANSWERS_S = 10.0


class Pace(msgspec.Struct, kw_only=True):
    """What one path did at one pace, a value for each round."""

    p50_s: list[float] = []
    p95_s: list[float] = []
    p99_s: list[float] = []
    delivered: list[float] = []
    """Share of what was published that had come when DRAIN_S were over."""
    per_s: list[float] = []
    cpu_us: list[float] = []
    """Processor time of the process that holds the sockets, for each event it delivered."""
    publisher_late_s: list[float] = []


class Memory(msgspec.Struct, frozen=True, kw_only=True):
    """Of one socket, in the process that holds it."""

    held: int
    """So many sockets; the web process keeps what its gateway does not take in time."""
    open_kb: float
    session_kb: float


class Loss(msgspec.Struct, kw_only=True):
    """What the sockets that come and go have heard."""

    published: int = 0
    heard: int = 0
    missed: int = 0
    twice: int = 0
    reconnects: int = 0


def run(report: Report) -> None:
    """Measure."""
    paths: dict[str, dict[int, Pace]] = {name: {rate: Pace() for rate in RATES} for name in (GATEWAY, WEB)}
    kilobytes: dict[str, list[Memory]] = {name: [] for name in paths}
    loss = Loss()
    for number in range(ROUNDS):
        for name in (GATEWAY, WEB):
            with _product(name) as product:
                for rate in RATES:
                    _deliver(product, name, rate, paths[name][rate])
                kilobytes[name].append(_memory(product, name, at_once=number > 0))
                if name == GATEWAY and number == 0:
                    loss = _reconnecting(product)
    _tell(report, paths, kilobytes, loss)
    report.samples = {"paths": paths, "kilobytes": kilobytes, "loss": loss}


@contextmanager
def _product(name: str) -> Iterator[Product]:
    yaml = queues(devices="[simulated]", engine="simulated", model=AT_ONCE)
    with running(yaml, gateway=name == GATEWAY) as product:
        _pin(product, name)
        yield product


def _holder(name: str) -> str:
    return "gateway" if name == GATEWAY else "web"


def _pin(product: Product, name: str) -> None:
    """The process that holds the sockets has the first core, everything else the second, clients and broker too."""
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        return
    for part, pid in product.pids().items():
        core = cores[0] if part == _holder(name) else cores[1]
        for one in [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]:
            for thread in one.threads():
                with suppress(ProcessLookupError):
                    os.sched_setaffinity(thread.id, {core})


def _client_core() -> int | None:
    cores = sorted(os.sched_getaffinity(0))
    return cores[1] if len(cores) > 1 else None


class _Publishing:
    """The publisher and the runs it made."""

    def __init__(self, product: Product, runs: int) -> None:
        settings = product.processes.settings
        core = _client_core()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.publishing", str(runs)],
            cwd=ROOT,
            env=inherited_environment() | settings.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            preexec_fn=_load_client().pinned(core),  # noqa: PLW1509 - no threads are started before
        )
        self.run_ids: list[str] = json.loads(self._line())

    def begin(self, rate: float, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{rate} {seconds}\n")
        self._process.stdin.flush()

    def ended(self) -> Published:
        return msgspec.json.decode(self._line(), type=Published)

    def _line(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the publisher ended with {self._process.wait(ANSWERS_S)}; it says why above")
        return line

    def __enter__(self) -> _Publishing:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()


def _load_client() -> Any:
    """The library's load client. Its bench is no package of ours, so it is imported by its place."""
    place = str(ROOT / "libs" / "websocket_fabric" / "bench")
    if place not in sys.path:
        sys.path.append(place)
    import load_client

    return load_client


def _resumes(run_ids: Sequence[str]) -> list[str]:
    return [json.dumps({"type": "resume", "run_id": run_id, "last_seq": 0}) for run_id in run_ids]


@contextmanager
def _sockets(product: Product, run_ids: Sequence[str], **options: Any) -> Iterator[Any]:
    port = urlsplit(product.url).port
    wanted = {"connections": len(run_ids), "path": "/ws", "hello": True, "sequence": True, **options}
    with _load_client().telling("sink", port, core=_client_core(), **wanted) as load:
        load.tell(_resumes(run_ids))
        load.sound()
        yield load


def _deliver(product: Product, name: str, rate: int, into: Pace) -> None:
    seconds = SECONDS
    with _Publishing(product, SOCKETS) as publishing:
        expect = int(rate * seconds)
        with _sockets(product, publishing.run_ids, expect=expect, warm=WARM_S, seconds=seconds + DRAIN_S) as load:
            before = product.usage()[_holder(name)].cpu_s
            publishing.begin(rate, seconds)
            found = load.sound()
            used_s = product.usage()[_holder(name)].cpu_s - before
            published = publishing.ended()
    into.p50_s.append(found["p50_us"] / 1e6)
    into.p95_s.append(found["p95_us"] / 1e6)
    into.p99_s.append(found["p99_us"] / 1e6)
    into.per_s.append(found["per_s"])
    into.delivered.append(found["messages"] / published.events)
    into.cpu_us.append(used_s / max(found["messages"], 1) * 1e6)
    into.publisher_late_s.append(published.late_s)


def _memory(product: Product, name: str, *, at_once: bool) -> Memory:
    """What a socket costs that is only open, and one whose session follows a run and has heard of it."""
    count = MANY[name]
    port = urlsplit(product.url).port
    with _Publishing(product, SOCKETS) as publishing:
        resumes = _resumes([publishing.run_ids[number % SOCKETS] for number in range(count)])
        product.wait_quiet()
        before, files = product.usage()[_holder(name)].rss_bytes, _files(product, name)
        options = {"path": "/ws", "hello": True, "sequence": True, "expect": count, "seconds": MANY_WAIT_S}
        options |= {"connections": count, "dialled": DIALLED}
        with _load_client().telling("sink", port, core=_client_core(), **options) as load:
            product.wait_quiet()
            opened, held = product.usage()[_holder(name)].rss_bytes, _files(product, name) - files
            for at in range(0, count, RESUMES_AT_ONCE):
                load.tell(resumes[at : at + RESUMES_AT_ONCE])
                time.sleep(0 if at_once else PAUSE_S)
            load.sound()
            product.wait_quiet()
            publishing.begin(SOCKETS, 1)
            found = load.sound()
            publishing.ended()
            if found["messages"] != count:
                raise RuntimeError(f"{found['messages']} of {count} open sockets have heard the event for them")
            session = product.usage()[_holder(name)].rss_bytes
    return Memory(held=held, open_kb=(opened - before) / held / 1024, session_kb=(session - before) / held / 1024)


def _files(product: Product, name: str) -> int:
    process = psutil.Process(product.pids()[_holder(name)])
    return sum(one.num_fds() for one in [process, *process.children(recursive=True)])


# --- sockets that come and go


def _reconnecting(product: Product) -> Loss:
    rate = RATES[0]
    with _Publishing(product, SOCKETS) as publishing:
        publishing.begin(rate, LOSS_S)
        loss = asyncio.run(_all_follow(product.url, publishing.run_ids, int(rate * LOSS_S) // SOCKETS))
        loss.published = publishing.ended().events
    return loss


async def _all_follow(url: str, run_ids: Sequence[str], events: int) -> Loss:
    loss = Loss()
    async with asyncio.timeout(LOSS_S + MANY_WAIT_S):
        await asyncio.gather(*(_follow(url, run_id, events, loss) for run_id in run_ids))
    return loss


async def _follow(url: str, run_id: str, events: int, loss: Loss) -> None:
    """Hear a run to its last event over sockets that are dropped at random."""
    address = url.replace("http", "ws", 1) + "/ws"
    last = streams.number(TOKEN, 0)
    end = streams.number(TOKEN, events)
    while last < end:
        async with connect(address, compression=None, proxy=None, ping_interval=None) as socket:
            resume = {"type": "resume", "run_id": run_id, "last_seq": last if last > streams.number(TOKEN, 0) else 0}
            await socket.send(json.dumps(resume))
            leaves_at = time.monotonic() + random.expovariate(1 / LEAVES_EVERY_S)
            last = await _hear(socket, last, end, leaves_at, loss)
            if last < end:
                loss.reconnects += 1
                if random.random() < 0.5:
                    socket.transport.abort()


async def _hear(socket: ClientConnection, last: int, end: int, leaves_at: float, loss: Loss) -> int:
    with suppress(ConnectionClosed, TimeoutError):
        while last < end:
            async with asyncio.timeout(max(leaves_at - time.monotonic(), 0)):
                event = json.loads(await socket.recv())
            if event["type"] != "token":
                continue
            loss.heard += 1
            loss.missed += max(event["seq"] - last - 1, 0)
            loss.twice += event["seq"] <= last
            last = max(last, event["seq"])
    return last


# --- what is told


def _tell(
    report: Report,
    paths: dict[str, dict[int, Pace]],
    kilobytes: dict[str, list[Memory]],
    loss: Loss,
) -> None:
    rows = [_row(name, rate, found) for rate in RATES for name, found in ((one, paths[one][rate]) for one in paths)]
    head = [f"publish → client, {SOCKETS} sockets", "p50", "p95", "p99", "delivered", "events/s", "CPU an event"]
    report.tables.append(Table(head, rows))
    rows = []
    for name, (spread, at_once) in kilobytes.items():
        figures = [f"{value:.1f} KB" for value in (spread.open_kb, spread.session_kb, at_once.session_kb)]
        rows.append([name, f"{spread.held:,}, {at_once.held:,}", *figures])
    head = ["memory of a socket", "sockets", "open", "with its session, following a run", "after all resumed at once"]
    report.tables.append(Table(head, rows))
    ours = paths[GATEWAY][RATES[0]]
    p95_s, full = median(ours.p95_s), kilobytes[GATEWAY][0].session_kb
    lost = loss.published - (loss.heard - loss.twice)
    report.goals += [
        Goal(f"p95 under 1 ms at {RATES[0]:,} tokens/s", _ms(p95_s), p95_s < P95_MAX_S),
        Goal(f"under 10 KB a socket with its session at {MANY[GATEWAY]:,}", f"{full:.1f} KB", full < KILOBYTES_MAX),
        Goal(
            f"no token lost over random reconnects at {RATES[0]:,} tokens/s",
            f"{lost} of {loss.published:,} lost, {loss.twice} told twice, {loss.reconnects} reconnects",
            not lost and not loss.missed and not loss.twice,
        ),
    ]
    late = max(value for by_rate in paths.values() for found in by_rate.values() for value in found.publisher_late_s)
    report.notes.append(f"The publisher was at most {_ms(late)} behind its pace.")


def _row(name: str, rate: int, found: Pace) -> list[str]:
    spread = [_ms(median(values)) for values in (found.p50_s, found.p95_s, found.p99_s)]
    kept = f"{median(found.delivered):.1%}"
    return [f"{rate:,}/s, {name}", *spread, kept, f"{median(found.per_s):,.0f}", f"{median(found.cpu_us):.0f} µs"]


def _ms(seconds: float) -> str:
    """Two digits more than a bench of models needs."""
    return f"{seconds * 1000:.2f} ms" if seconds < 0.1 else f"{seconds * 1000:.0f} ms"
