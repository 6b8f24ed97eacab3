"""The second turn of a long conversation on two devices, with and without the pool's session affinity."""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Sequence

import msgspec

from bench.client import Conversation, Turn, conversations, make_persona
from bench.figures import median, ms, percentile
from bench.product import queues, running, the_model
from bench.report import Goal, Report, Table

TALKERS = 2
CONVERSATIONS = 8
"""Per talker."""
TOKENS = 16
PAUSE_MAX_S = 0.3
SEED = 11
STORY = (
    "The harbour lies in a bay that opens to the west, and every morning the boats go out before the sun is up. ",
    "My grandfather mended nets there and knew each fisherman by the sound of his engine. ",
    "In winter the storms came over the sea wall and we counted the waves from the kitchen window. ",
    "Once a whale stranded on the sandbank, and the whole village carried buckets of water until the tide came back. ",
    "The lighthouse keeper kept a list of every ship that passed, with its name, its colours and its heading. ",
)
SENTENCES = 34
"""About 800 tokens."""


class Pair(msgspec.Struct, frozen=True):
    """Two turns of one conversation."""

    first_s: float
    second_s: float
    same_device: bool
    prompt_tokens: int


def run(report: Report) -> None:
    """Measure."""
    the_model()
    found: dict[bool, list[Pair]] = {}
    for affinity in (True, False):
        yaml = queues(devices='["cpu:0", "cpu:1"]', streams=4, affinity=affinity)
        with running(yaml) as product:
            found[affinity] = asyncio.run(_talk(product.url))
    moved = [pair for pair in found[False] if not pair.same_device]
    rows = [
        _row("with affinity", found[True]),
        _row("without", found[False]),
        _row("without, where the device changed", moved),
    ]
    head = ["", "first turn, median TTFT", "second turn, median", "mean", "p95", "same device"]
    report.tables.append(Table(head, rows))
    gain = _mean(found[False]) / _mean(found[True])
    report.goals.append(
        Goal("on average the second turn begins sooner with affinity", f"{gain:.1f} times sooner", gain > 1)
    )
    lengths = [pair.prompt_tokens for pairs in found.values() for pair in pairs]
    report.notes.append(
        f"Two devices of one core each, {TALKERS} people talking at once, second prompts of "
        f"{min(lengths)}–{max(lengths)} tokens."
    )
    report.samples = {"with": found[True], "without": found[False]}


def _row(name: str, pairs: Sequence[Pair]) -> list[str]:
    seconds = [pair.second_s for pair in pairs]
    return [
        name,
        ms(median([pair.first_s for pair in pairs])),
        ms(median(seconds)),
        ms(_mean(pairs)),
        ms(percentile(seconds, 0.95)),
        f"{sum(pair.same_device for pair in pairs)} of {len(pairs)}",
    ]


def _mean(pairs: Sequence[Pair]) -> float:
    return sum(pair.second_s for pair in pairs) / len(pairs) if pairs else math.nan


async def _talk(url: str) -> list[Pair]:
    persona = make_persona(url, "You are a patient listener. You answer in one short sentence.")
    async with conversations(url, persona, TALKERS) as talkers:
        done = await asyncio.gather(*(_person(one, place) for place, one in enumerate(talkers)))
    return [pair for pairs in done for pair in pairs]


async def _person(talker: Conversation, place: int) -> list[Pair]:
    # pauses that differ, or the devices would take strict turns and the same one would never come twice
    rng = random.Random(SEED + place)
    pairs = []
    for number in range(CONVERSATIONS):
        talker.renew()
        story = "".join(rng.choice(STORY) for _ in range(SENTENCES))
        first = _done(await talker.say(f"Letter {place}-{number}. {story}What did I tell you about?", TOKENS))
        await asyncio.sleep(rng.uniform(0.05, PAUSE_MAX_S))
        second = _done(await talker.say("And what would you ask me?", TOKENS))
        pairs.append(Pair(first.ttft_s, second.ttft_s, first.device == second.device, second.prompt_tokens))
        await asyncio.sleep(rng.uniform(0.05, PAUSE_MAX_S))
    return pairs


def _done(turn: Turn) -> Turn:
    if turn.end != "done":
        raise RuntimeError(f"a turn ended with {turn.end} {turn.code}")
    return turn
