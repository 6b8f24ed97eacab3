"""kill -9 of the worker in mid-reply until the same run speaks again, where that time goes, and how fast a stop is."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from bench.client import Conversation, conversations, make_persona
from bench.figures import median, ms, percentile
from bench.machine import ROOT
from bench.product import Product, queues, running, the_model
from bench.report import Goal, Report, Table
from bench.simulated import STEADY

KILLS = 5
STOPS = 20
AT_TOKEN_EVENTS = 5
LOOK_S = 0.02
HEALTHY_S = 11.0
"""A worker that lived this long is restarted at once (workers.supervisor.HEALTHY_AFTER_S)."""
QUESTION = "Tell me everything about the sea: its fish, its storms, its islands and its people. Be long and thorough. "


class Recovery(msgspec.Struct, kw_only=True):
    """One kill. Seconds since the kill."""

    started_s: float = 0.0
    """The supervisor has started the successor."""
    reported_s: float = 0.0
    """It has imported what it needs first and says that it is loading."""
    ready_s: float = 0.0
    """Its model is loaded and warm, its tasks are registered."""
    claimed_s: float = 0.0
    """The client hears `restarted`."""
    token_s: float = 0.0
    """The client hears the first new text."""


class _Watch:
    """Looks at the successor's reports from outside while the client waits."""

    def __init__(self, product: Product, node: str, old_pid: int, killed: float) -> None:
        self.product, self.node, self.old_pid, self.killed = product, node, old_pid, killed
        self.found = Recovery()
        self.stop = threading.Event()

    def look(self) -> None:
        """Until told to stop."""
        while not self.stop.wait(LOOK_S):
            now = time.perf_counter() - self.killed
            pid = self.product.pids().get(self.node)
            if pid and pid != self.old_pid:
                self.found.started_s = self.found.started_s or now
            report = self.product.report(self.node)
            if report is not None and report.pid not in (0, self.old_pid):
                self.found.reported_s = self.found.reported_s or now
                if report.state == "ready":
                    self.found.ready_s = self.found.ready_s or now


@contextmanager
def _watching(watch: _Watch) -> Iterator[None]:
    thread = threading.Thread(target=watch.look, daemon=True)
    thread.start()
    try:
        yield
    finally:
        watch.stop.set()
        thread.join()


def run(report: Report) -> None:
    """Measure."""
    the_model()
    kills: dict[str, list[Recovery]] = {}
    stops: dict[str, list[float]] = {}
    with running(queues()) as product:
        kills["real model"], stops["one reply running"], stops["eight replies running"] = asyncio.run(
            _measure(product, "chat-cpu")
        )
    simulated = queues(devices="[simulated]", engine="simulated", model=STEADY)
    with running(simulated) as product:
        kills["simulated"], _, _ = asyncio.run(_measure(product, "chat-simulated", with_stops=False))
    _tell(report, kills, stops)


async def _measure(
    product: Product, node: str, *, with_stops: bool = True
) -> tuple[list[Recovery], list[float], list[float]]:
    persona = make_persona(product.url, "You are a sailor who tells long stories.")
    async with conversations(product.url, persona, 8) as talkers:
        alone = [await _stop(talkers[0], n) for n in range(STOPS)] if with_stops else []
        crowded = await _stop_in_crowd(talkers) if with_stops else []
        kills = []
        for number in range(KILLS):
            await asyncio.sleep(HEALTHY_S)
            kills.append(await _kill(product, node, talkers[0], number))
    return kills, alone, crowded


async def _kill(product: Product, node: str, talker: Conversation, number: int) -> Recovery:
    talker.renew()
    turn = await talker.send(f"{number}. {QUESTION}", 400)
    await talker.hear(turn, until_tokens=AT_TOKEN_EVENTS)
    old = product.pids()[node]
    watch = _Watch(product, node, old, time.perf_counter())
    product.processes.kill(node)
    with _watching(watch):
        turn.token_times.clear()
        turn.started = 0.0
        # text that was on its way when the worker died comes before `started`
        while not (turn.started and turn.token_times and turn.token_times[-1] > turn.started):
            await talker.hear(turn, until_tokens=len(turn.token_times) + 1)
    found = watch.found
    found.claimed_s, found.token_s = turn.started - watch.killed, turn.token_times[-1] - watch.killed
    await talker.stop(turn.run_id)
    await talker.hear(turn)
    return found


async def _stop(talker: Conversation, number: int) -> float:
    """Seconds from the stop to its event, in the middle of a reply."""
    talker.renew()
    turn = await talker.send(f"{number}. {QUESTION}", 400)
    await talker.hear(turn, until_tokens=AT_TOKEN_EVENTS)
    asked = time.perf_counter()
    await talker.stop(turn.run_id)
    await talker.hear(turn)
    if turn.end != "stopped":
        raise RuntimeError(f"a stopped reply ended with {turn.end}")
    return turn.ended - asked


async def _stop_in_crowd(talkers: list[Conversation]) -> list[float]:
    found = []
    for number in range(3):
        found += await asyncio.gather(*(_stop(one, 100 * place + number) for place, one in enumerate(talkers)))
    return found


def _tell(report: Report, kills: dict[str, list[Recovery]], stops: dict[str, list[float]]) -> None:
    steps = ("started_s", "reported_s", "ready_s", "claimed_s", "token_s")
    rows = [
        [name, *(ms(median([getattr(one, step) for one in found])) for step in steps), _worst(found)]
        for name, found in kills.items()
    ]
    head = ["after kill -9, median", "process started", "says loading", "model ready", "job claimed", "first new text"]
    report.tables.append(Table([*head, "worst"], rows))
    report.tables.append(_imports())
    report.tables.append(
        Table(
            ["stop to its event", "median", "p95", "worst"],
            [[name, ms(median(one)), ms(percentile(one, 0.95)), ms(max(one))] for name, one in stops.items()],
        )
    )
    worst = max(one.token_s for found in kills.values() for one in found)
    slowest = max(max(one) for one in stops.values())
    report.goals += [
        Goal("the same run speaks again within 3 s of kill -9", f"worst {ms(worst)}", worst < 3.0),
        Goal("a stop takes effect within 300 ms", f"worst {ms(slowest)}", slowest < 0.3),
    ]
    report.samples = {"kills": kills, "stops": stops}


def _worst(found: list[Recovery]) -> str:
    return ms(max(one.token_s for one in found))


def _imports() -> Table:
    """What a worker's process pays before it can load a model, each in a fresh interpreter."""
    rows = []
    for name, code in (
        ("an empty interpreter", "pass"),
        ("workers.main", "import workers.main"),
        ("workers.main, celery's worker", "import workers.main, celery.apps.worker, celery.worker.consumer"),
        ("openvino_genai", "from workers.engines.openvino_parts import plain_import; plain_import()"),
    ):
        times = []
        for _ in range(3):
            began = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
            times.append(time.perf_counter() - began)
        rows.append([name, ms(median(times))])
    return Table(["a process that imports", "median"], rows)
