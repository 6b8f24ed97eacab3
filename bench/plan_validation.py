"""The planner's simulation beside the running product: calibrated on some ways of asking, held against others.

The same people are simulated and played: conversations that ask again as soon as they are answered, with replies of
given lengths. What is compared is tokens per second of all together, in the middle of the run. A model in segments on
real devices is plan_pipeline.py's, and a part of this report.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence

import msgspec

from bench import plan_pipeline
from bench.chat import SYSTEM, TOPICS
from bench.client import Conversation, Turn, conversations, make_persona
from bench.figures import median, ms
from bench.product import Product, queues, running, the_model
from bench.report import Goal, Report, Table
from reef.planning.curves import Batching, Curve, Staged
from reef.planning.measured import Reply, fit, recent_replies
from reef.planning.simulate import run as simulate
from reef.planning.strategies import Layout, Unit
from reef.planning.workload import Load
from reef.records.database import Database

SECONDS = 8.0
WARM_S = 1.5
ROUNDS = 3
"""Of all mixes in turn: what else runs on the machine meanwhile disturbs all of them alike."""
RUNS = 5
ERROR_MAX = 0.20
SIMULATED = "simulated:token_ms=20,first_ms=60"
SIMULATED_TOKEN_S, SIMULATED_FIRST_S = 0.02, 0.06


class Mix(msgspec.Struct, frozen=True):
    """What is played: so many conversations, replies and questions of these mean lengths."""

    name: str
    conversations: int
    reply: int
    spread: bool
    """Lengths from a distribution, not all the same."""
    words: int = 12
    """Of the question."""
    calibrates: bool = False


class Measured(msgspec.Struct, frozen=True):
    """What a mix did."""

    tokens_per_s: float
    ttft_s: float
    prompt_tokens: float
    reply_tokens: float


def run(report: Report) -> None:
    """Measure, predict, compare."""
    the_model()
    rows: list[list[str]] = []
    errors: dict[str, float] = {}
    mixes = [
        # two numbers of conversations and two lengths of prompts: as many as the curve has figures
        Mix("1 conversation, replies of 64", 1, 64, spread=False, calibrates=True),
        Mix("8 conversations, replies of 64", 8, 64, spread=False, calibrates=True),
        Mix("1 conversation, replies of 16, questions of 240 words", 1, 16, spread=False, words=240, calibrates=True),
        Mix("2 conversations, replies of 64", 2, 64, spread=False),
        Mix("4 conversations, replies of 64", 4, 64, spread=False),
        Mix("6 conversations, replies of 16 to 160", 6, 80, spread=True),
        Mix("3 conversations, replies of 16 to 160, questions of 120 words", 3, 80, spread=True, words=120),
    ]
    with running(queues()) as product:
        found, replies = asyncio.run(_play_all(product, mixes))
        curve = fit([one for mix in mixes if mix.calibrates for one in replies[mix.name]], streams=8)
        report.notes.append(f"One device, as calibrated: {_told(curve)}")
        _compare(report, rows, errors, mixes, found, [curve])
    with running(
        queues(engine="simulated", devices='["simulated:0", "simulated:1"]', model=SIMULATED, streams=4)
    ) as product:
        mix = Mix("8 conversations on two simulated devices, 20 ms a token", 8, 80, spread=True)
        found, _ = asyncio.run(_play_all(product, [mix]))
        # its streams do not disturb each other, as the stages of a pipeline
        prompt_s = SIMULATED_FIRST_S / found[mix.name].prompt_tokens
        each = Staged(pass_s=SIMULATED_TOKEN_S, stages=4, prompt_token_s=prompt_s, streams=4)
        _compare(report, rows, errors, [mix], found, [each, each])
    head = ["played", "tokens/s measured", "predicted", "error", "TTFT measured", "predicted"]
    report.tables.append(Table(head, rows))
    report.goals.append(
        Goal(
            f"throughput predicted within {ERROR_MAX:.0%}",
            ", ".join(f"{error:+.0%}" for error in errors.values()),
            all(abs(error) <= ERROR_MAX for error in errors.values()),
        )
    )
    plan_pipeline.add(report)


def _compare(
    report: Report,
    rows: list[list[str]],
    errors: dict[str, float],
    mixes: list[Mix],
    found: dict[str, Measured],
    curves: Sequence[Curve],
) -> None:
    for mix in mixes:
        measured = found[mix.name]
        predicted, ttft_s = _predict(mix, measured, curves)
        error = predicted / measured.tokens_per_s - 1
        name = f"({mix.name}: calibrated on)" if mix.calibrates else mix.name
        if not mix.calibrates:
            errors[name] = error
        report.samples[mix.name] = {"measured": measured, "predicted": predicted, "ttft_s": ttft_s}
        rows.append(
            [name, f"{measured.tokens_per_s:.0f}", f"{predicted:.0f}", f"{error:+.1%}", ms(measured.ttft_s), ms(ttft_s)]
        )


def _predict(mix: Mix, measured: Measured, curves: Sequence[Curve]) -> tuple[float, float]:
    """Tokens per second and median TTFT of the simulation with the lengths that were asked for."""
    load = Load(
        conversations=mix.conversations,
        think_s=0.0,
        prompt=measured.prompt_tokens,
        reply=measured.reply_tokens,
        lengths="lognormal" if mix.spread else "fixed",
        personas=1,
        device_mtbf_h=None,
    )
    units = tuple(Unit(devices=1, curve=curve, route=0) for curve in curves)
    layout = Layout(strategy="dynamic", units=units, spares=0, swap_s=0.0, by_persona=False, held=True)
    done = [simulate(layout, load, len(curves), seed, span_s=60.0) for seed in range(RUNS)]
    return median([one.tokens / one.span_s for one in done]), median([t for one in done for t in one.ttft_s])


async def _play_all(product: Product, mixes: list[Mix]) -> tuple[dict[str, Measured], dict[str, list[Reply]]]:
    persona = make_persona(product.url, SYSTEM)
    turns: dict[str, list[list[Turn]]] = {mix.name: [] for mix in mixes}
    replies: dict[str, list[Reply]] = {mix.name: [] for mix in mixes}
    database = Database(product.processes.settings.sqlalchemy_url)
    async with conversations(product.url, persona, max(mix.conversations for mix in mixes)) as talkers:
        await asyncio.gather(*(one.say("Hello there, tell me about the sea.", 16) for one in talkers))  # warm
        for number in range(ROUNDS):
            for mix in mixes:
                began = time.time()
                said = await asyncio.gather(
                    *(_talk(one, mix, f"{number} {place}") for place, one in enumerate(talkers[: mix.conversations]))
                )
                turns[mix.name].append([turn for one in said for turn in one])
                replies[mix.name] += [one for one in recent_replies(database) if one.started >= began]
    database.dispose()
    return {name: _measured(rounds) for name, rounds in turns.items()}, replies


async def _talk(talker: Conversation, mix: Mix, place: str) -> list[Turn]:
    numbers = random.Random(f"{mix.name} {place}")
    until, turns = time.perf_counter() + SECONDS, []
    while time.perf_counter() < until:
        talker.renew()
        length = round(min(160, max(16, numbers.lognormvariate(4.2, 0.6)))) if mix.spread else mix.reply
        turns.append(await talker.say(_question(numbers, mix.words), length))
        assert turns[-1].end == "done", turns[-1]
    return turns


def _question(numbers: random.Random, words: int) -> str:
    """New in every turn, so that no cache helps."""
    topics = " ".join(numbers.choice(TOPICS) for _ in range(words)).split()
    return f"Letter {numbers.randrange(10**6)}. Tell me at length about {' '.join(topics[:words])}."


def _measured(rounds: list[list[Turn]]) -> Measured:
    """All rounds together."""
    turns = [turn for one in rounds for turn in one]
    firsts = [turn.ttft_s for one in rounds for turn in one if turn.sent >= min(t.sent for t in one) + WARM_S]
    return Measured(
        sum(_rate(one) for one in rounds) / len(rounds),
        median(firsts),
        sum(turn.prompt_tokens for turn in turns) / len(turns),
        sum(turn.tokens for turn in turns) / len(turns),
    )


def _rate(turns: list[Turn]) -> float:
    """Tokens per second between the warm-up and the moment before the first conversation stops asking."""
    begin = min(turn.sent for turn in turns) + WARM_S
    end = begin + SECONDS - WARM_S - 1.0
    tokens = 0.0
    for turn in turns:
        if turn.tokens > 1 and turn.first:
            share = max(0.0, min(turn.ended, end) - max(turn.first, begin)) / (turn.ended - turn.first)
            tokens += share * turn.tokens
    return tokens / (end - begin)


def _told(curve: Batching) -> str:
    return (
        f"a step of n conversations {curve.step_fixed_s * 1000:.2f} + {curve.step_stream_s * 1000:.2f} n ms, "
        f"a prompt {curve.prompt_fixed_s * 1000:.1f} ms + {curve.prompt_token_s * 1000:.3f} ms a token"
    )
