"""What the product adds to an engine that costs nothing: chat frame sent to first text heard, through every part."""

from __future__ import annotations

import asyncio
import threading
import time

import msgspec

from bench.client import Turn, conversations, make_persona
from bench.figures import median, ms, percentile
from bench.product import queues, running, spent
from bench.report import Goal, Report, Table
from bench.simulated import AT_ONCE, fastest
from reef.ports import ChatMessage, ChatRequest

FRESH = 200
CONTINUED = 200
TURNS_PER_SESSION = 5
WARM = 30
TOKENS = 8
GAP_S = 0.01
ADDED_MAX_S = 0.010
SYSTEM = "You are brief."
QUESTION = "Hello, how is the sea today?"


class Step(msgspec.Struct, frozen=True):
    """Where a turn's time to first text went. Seconds."""

    accept_s: float
    """Frame sent until `queued` was heard: validation, the two rows, the hint."""
    claim_s: float
    """The job's row written until a worker's thread held the claim (the worker's own reading)."""
    engine_s: float
    """Claim until the engine's first text: prompt and engine (the worker's own reading)."""
    started_s: float
    """`queued` heard until `started` heard."""
    told_s: float
    """`started` heard until the first text was heard."""


def run(report: Report) -> None:
    """Measure."""
    direct = _direct()
    with running(queues(devices="[simulated]", engine="simulated", model=AT_ONCE)) as product:
        before = product.usage()
        fresh, continued = asyncio.run(_talk(product.url))
        used = spent(before, product.usage())
    peer = median(direct)
    rows = [["engine called directly, in process", ms(peer), ms(percentile(direct, 0.95)), "", str(len(direct))]]
    for name, turns in (("product, new session each", fresh), ("product, continued sessions", continued)):
        times = [turn.ttft_s for turn in turns]
        p95 = percentile(times, 0.95)
        rows.append([name, ms(median(times)), ms(p95), ms(p95 - peer), str(len(turns))])
    report.tables.append(Table(["frame sent to first text heard", "p50", "p95", "p95 added", "turns"], rows))
    everything = fresh + continued
    steps = [_step(turn) for turn in everything]
    named = {
        "frame sent → `queued` heard": [one.accept_s for one in steps],
        "`queued` heard → `started` heard": [one.started_s for one in steps],
        "`started` heard → first text heard": [one.told_s for one in steps],
        "row written → claimed (worker's clock)": [one.claim_s for one in steps],
        "claimed → engine's first text (worker's clock)": [one.engine_s for one in steps],
    }
    report.tables.append(
        Table(["step", "p50", "p95"], [[k, ms(median(v)), ms(percentile(v, 0.95))] for k, v in named.items()])
    )
    count = WARM + FRESH + CONTINUED + CONTINUED // TURNS_PER_SESSION
    report.tables.append(
        Table(["processor time", "per turn"], [[name, ms(cpu_s / count)] for name, cpu_s in used.items()])
    )
    added = percentile([turn.ttft_s for turn in everything], 0.95) - peer
    report.goals.append(Goal("p95 of what the product adds under 10 ms", ms(added), added < ADDED_MAX_S))
    report.samples = {"direct_s": direct, "fresh": fresh, "continued": continued}


def _direct() -> list[float]:
    engine = fastest()
    engine.load(lambda share, note: None)
    request = ChatRequest([ChatMessage("system", SYSTEM), ChatMessage("user", QUESTION)], TOKENS, temperature=0.0)
    times = []
    for _ in range(FRESH + WARM):
        heard: list[float] = []

        def on_text(_text: str, heard: list[float] = heard) -> None:
            heard.append(time.perf_counter())

        began = time.perf_counter()
        engine.generate(request, on_text, threading.Event())
        times.append(heard[0] - began)
    engine.close()
    return times[WARM:]


async def _talk(url: str) -> tuple[list[Turn], list[Turn]]:
    persona = make_persona(url, SYSTEM)
    fresh, continued = [], []
    async with conversations(url, persona, 1) as (talker,):
        for _ in range(WARM):
            await talker.say(QUESTION, TOKENS)
        for _ in range(FRESH):
            talker.renew()
            fresh.append(await talker.say(QUESTION, TOKENS))
            await asyncio.sleep(GAP_S)
        for number in range(CONTINUED):
            if number % TURNS_PER_SESSION == 0:
                talker.renew()
                await talker.say(QUESTION, TOKENS)
            continued.append(await talker.say(QUESTION, TOKENS))
            await asyncio.sleep(GAP_S)
    wrong = [turn for turn in fresh + continued if turn.end != "done"]
    if wrong:
        raise RuntimeError(f"{len(wrong)} turns failed, the first with {wrong[0].code}")
    return fresh, continued


def _step(turn: Turn) -> Step:
    return Step(
        accept_s=turn.queued - turn.sent,
        claim_s=turn.metrics.get("queue_s", 0.0),
        engine_s=turn.metrics.get("first_token_s", 0.0),
        started_s=turn.started - turn.queued,
        told_s=turn.first - turn.started,
    )
