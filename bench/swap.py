"""Changing the model of a device while people talk to it: how long it takes, whether anybody notices, what it forgets.

The second model has the same weights under another name: what is measured is the change, not the model.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from bench.client import Conversation, Turn, conversations, make_persona
from bench.figures import mb, median, ms, percentile
from bench.product import DATA, MODEL, Product, queues, running, the_model
from bench.report import Goal, Report, Table
from reef import keys
from reef.contracts.nodes import NodeReport
from reef.placement.model import Place
from reef.placement.store import PlacementStore
from reef.records.database import Database
from workers.replaying import SESSIONS_MAX

NODE = "chat-cpu"
OTHER = "swap-twin"
SWAPS = 6
TALKERS = 4
LOOK_S = 0.005
SWAP_MAX_S = 120.0
TOKENS = 96
SETTLE_S = 1.0
GOAL_S = 2.0
LONG_TURN_SENTENCES = 34
"""About 800 tokens."""
SENTENCES = (
    "The ferry was late again and the harbour master said nothing about it all morning. ",
    "We carried the nets up the hill, one by one, and counted them twice in the rain. ",
    "My aunt keeps a notebook of every storm since she was nine years old. ",
    "Behind the chapel there is a well that nobody has used since the railway came. ",
)


class Swap(msgspec.Struct, kw_only=True):
    """One change of the model."""

    took_s: float
    """From the decision until the report says that it is carried out."""
    memory_bytes: int = 0
    turns: list[Turn] = []
    """Those that ran while it lasted, or came then."""


class Operator:
    """Decides, and watches what the worker says."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.database = Database(product.processes.settings.sqlalchemy_url)
        self.places = PlacementStore(self.database)

    def close(self) -> None:
        """Leave."""
        self.database.dispose()

    async def change(self, model: str, resident: tuple[str, ...] = ()) -> float:
        """Have the device serve this model; seconds until it does."""
        known = self.places.get(NODE)
        place = Place(node=NODE, pool="chat", model=model, resident=resident, version=known.version if known else 0)
        began = time.perf_counter()
        stored = self.places.put([place])[0]
        self.product.broker.publish(keys.PLACEMENT_CHANNEL, NODE)
        while not _serves(self.product.report(NODE), stored, model):
            if time.perf_counter() - began > SWAP_MAX_S:
                raise RuntimeError(f"{model} does not serve after {SWAP_MAX_S:.0f} s: {self.product.report(NODE)}")
            await asyncio.sleep(LOOK_S)
        return time.perf_counter() - began


def _serves(report: NodeReport | None, place: Place, model: str) -> bool:
    return report is not None and report.place_version == place.version and report.model == model


def run(report: Report) -> None:
    """Measure."""
    the_model()
    twin = DATA / "models" / f"{OTHER}.gguf"
    if not twin.exists():
        os.link(DATA / "models" / f"{MODEL}.gguf", twin)
    with running(queues()) as product:
        operator = Operator(product)
        try:
            asyncio.run(_measure(report, product, operator))
        finally:
            operator.close()


async def _measure(report: Report, product: Product, operator: Operator) -> None:
    await operator.change(OTHER)  # what is prepared once per machine is there from here on
    await operator.change(MODEL)
    idle = [Swap(took_s=await operator.change(model)) for model in _models(SWAPS)]
    loaded, calm = await _under_load(product, operator)
    await operator.change(MODEL, (OTHER,))
    resident = [Swap(took_s=await operator.change(model, (OTHER, MODEL))) for model in _models(SWAPS)]
    await operator.change(MODEL)
    replayed, cold = await _first_turns(product, operator)
    _tell(report, idle, loaded, resident)
    _tell_gaps(report, loaded, calm)
    _tell_first_turns(report, replayed, cold)
    report.samples = {"idle": idle, "loaded": loaded, "resident": resident, "read again": replayed, "cold": cold}


def _models(count: int) -> list[str]:
    return [(OTHER, MODEL)[number % 2] for number in range(count)]


async def _under_load(product: Product, operator: Operator) -> tuple[list[Swap], list[Turn]]:
    """Swaps while people talk without a pause, and turns of the same people when nothing is changed."""
    persona = make_persona(product.url, "You tell long stories.", temperature=0.7)
    swaps: list[Swap] = []
    async with conversations(product.url, persona, TALKERS) as talkers:
        async with _talking(talkers) as calm:
            await asyncio.sleep(4 * SETTLE_S)
        for model in _models(SWAPS):
            async with _talking(talkers) as turns:
                await asyncio.sleep(SETTLE_S)
                before = product.usage()[NODE].rss_bytes
                swap = Swap(took_s=await operator.change(model))
                swap.memory_bytes = product.usage()[NODE].rss_bytes - before
                await asyncio.sleep(SETTLE_S)
            swap.turns = turns
            swaps.append(swap)
    return swaps, calm


@asynccontextmanager
async def _talking(talkers: Sequence[Conversation]) -> AsyncIterator[list[Turn]]:
    """Everybody talks turn after turn until the body ends; the turns, all of them ended."""
    stop, turns = asyncio.Event(), list[Turn]()

    async def talk(one: Conversation, place: int) -> None:
        while not stop.is_set():
            one.renew()
            turns.append(await one.say(f"{place}: tell me a story about {random.choice(SENTENCES)}", TOKENS))

    tasks = [asyncio.create_task(talk(one, place)) for place, one in enumerate(talkers)]
    try:
        yield turns
    finally:
        stop.set()
        await asyncio.gather(*tasks)


async def _first_turns(product: Product, operator: Operator) -> tuple[list[Turn], list[Turn]]:
    """First turns after a swap of conversations that were read again, and of older ones, which are not."""
    persona = make_persona(product.url, "You are a patient listener. You answer in one short sentence.")
    rng, replayed, cold = random.Random(7), list[Turn](), list[Turn]()
    async with conversations(product.url, persona, 1) as (talker,):
        for model in (OTHER, MODEL):
            sessions = []
            for number in range(2 * SESSIONS_MAX):
                talker.renew()
                sessions.append(talker.session_id)
                story = "".join(rng.choice(SENTENCES) for _ in range(LONG_TURN_SENTENCES))
                await talker.say(f"Letter {model}-{number}. {story}What did I tell you?", 16)
            await operator.change(model)
            await asyncio.sleep(SETTLE_S)
            product.wait_quiet(60.0)
            for old, new in zip(sessions[:SESSIONS_MAX], sessions[SESSIONS_MAX:], strict=True):
                for session, found in ((old, cold), (new, replayed)):
                    talker.session_id = session
                    found.append(await talker.say("And what would you ask me?", 16))
    return replayed, cold


def _tell(report: Report, idle: list[Swap], loaded: list[Swap], resident: list[Swap]) -> None:
    rows = []
    for name, swaps in (
        ("nobody talks", idle),
        (f"{TALKERS} people talk without a pause", loaded),
        ("to a model that is in memory", resident),
    ):
        took = [swap.took_s for swap in swaps]
        rows.append([name, ms(median(took)), ms(max(took))])
    report.tables.append(Table(["decision to the new model serving", "median", "worst"], rows))
    worst = max(swap.took_s for swap in idle)
    report.goals.append(
        Goal(f"a cached model serves within {GOAL_S:.0f} s", f"{worst:.2f} s at worst, idle", worst < GOAL_S)
    )
    kept = max(swap.took_s for swap in resident)
    report.goals.append(Goal(f"a model in memory serves within {GOAL_S:.0f} s", f"{kept:.2f} s", kept < GOAL_S))


def _tell_gaps(report: Report, loaded: list[Swap], calm: list[Turn]) -> None:
    turns = [turn for swap in loaded for turn in swap.turns]
    rows = []
    for name, some in (("nothing is changed", calm), ("with a swap", turns)):
        gaps = [gap for turn in some for gap in _gaps(turn)]
        first = [turn.ttft_s for turn in some]
        failed = sum(turn.end != "done" for turn in some)
        counts = [str(len(some)), str(failed)]
        between = [ms(median(gaps)), ms(percentile(gaps, 0.99)), ms(max(gaps))]
        rows.append([name, *counts, *between, ms(median(first)), ms(max(first))])
    head = [
        f"{TALKERS} people talk",
        "turns",
        "failed",
        "gap, median",
        "gap, p99",
        "gap, worst",
        "TTFT, median",
        "worst",
    ]
    report.tables.append(Table(head, rows))
    failed = sum(turn.end != "done" for turn in turns)
    report.goals.append(Goal("no turn fails in a swap", f"{failed} of {len(turns)}", failed == 0))
    grown = max(swap.memory_bytes for swap in loaded)
    report.notes.append(
        f"A gap is the time between two pieces of text of one reply. Right after a swap the worker holds up to "
        f"{mb(grown)} more than before: the old engine stays until its last reply has ended."
    )


def _gaps(turn: Turn) -> list[float]:
    return [later - earlier for earlier, later in itertools.pairwise(turn.token_times)]


def _tell_first_turns(report: Report, replayed: list[Turn], cold: list[Turn]) -> None:
    rows = []
    for name, turns in (("read again by the new engine", replayed), ("not read again", cold)):
        times = [turn.ttft_s for turn in turns]
        rows.append([name, ms(median(times)), ms(percentile(times, 0.95)), str(len(turns))])
    report.tables.append(Table(["first turn after a swap", "median TTFT", "p95", "turns"], rows))
    gain = median([turn.ttft_s for turn in cold]) / median([turn.ttft_s for turn in replayed])
    report.goals.append(Goal("conversations go on sooner after a swap", f"{gain:.1f} times sooner", gain > 1))
    tokens = [turn.prompt_tokens for turn in [*replayed, *cold]]
    report.notes.append(
        f"Prompts of {min(tokens)}–{max(tokens)} tokens. The new engine reads the last {SESSIONS_MAX} conversations "
        "while nobody waits; the older ones of the same run are the comparison."
    )
