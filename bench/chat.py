"""Time to first token and tokens per second of the product, beside its engine alone and beside llama.cpp's server."""

from __future__ import annotations

import asyncio
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable

import msgspec

from bench.client import all_say, conversations, make_persona
from bench.contender import Answers, Prompt
from bench.figures import median, ms, ratio
from bench.product import queues, running, spent, the_model
from bench.report import Goal, Report, Table
from bench.rivals import rivals

STREAMS = (1, 2, 4, 8)
TOKENS = 64
ROUNDS = 4
SYSTEM = "You are a marine biologist who explains the sea to curious people. You answer in long, vivid paragraphs."
TOPICS = (
    "coral polyps and the algae that live in them",
    "how a whale finds its way across an ocean",
    "why the deep sea glows",
    "the life of a sea turtle from egg to old age",
    "what a tide is and who depends on it",
    "how an octopus thinks with its arms",
    "the great currents and the weather they make",
    "what lives in a spoonful of sea water",
)
NAMES = {
    "product": "Coral Reef, browser's view",
    "engine": "its engine class, called directly",
    "pipeline": "bare openvino_genai pipeline",
    "llama": "llama.cpp's server (xllamacpp)",
}
_number = itertools.count(1)


class Sample(msgspec.Struct, frozen=True):
    """One round of one contender."""

    streams: int
    ttft_s: list[float]
    tokens: int
    wall_s: float
    prompt_tokens: int

    @property
    def rate(self) -> float:
        """Tokens per second, all streams together."""
        return self.tokens / self.wall_s


Samples = dict[str, list[Sample]]


def questions(count: int) -> list[str]:
    """Questions nobody was asked before: a prompt cache helps with the system text only, and everybody alike."""
    return [f"Letter {next(_number)}. Tell me at length about {topic}." for topic in TOPICS[:count]]


def prompts(texts: list[str]) -> list[Prompt]:
    """The messages that the product makes of these questions."""
    return [[{"role": "system", "content": SYSTEM}, {"role": "user", "content": text}] for text in texts]


def run(report: Report, rounds: int = ROUNDS) -> None:
    """Measure."""
    the_model()
    with running(queues()) as product, rivals("engine", "pipeline", "llama") as others:
        used: dict[int, Counter[str]] = {}

        async def measure() -> Samples:
            persona = make_persona(product.url, SYSTEM)
            samples: Samples = defaultdict(list)
            async with conversations(product.url, persona, max(STREAMS)) as talkers:

                async def ask_product(texts: list[str]) -> Sample:
                    asked = talkers[: len(texts)]
                    for one in asked:
                        one.renew()
                    before = product.usage()
                    turns = await all_say(asked, texts, TOKENS)
                    used.setdefault(len(texts), Counter()).update(spent(before, product.usage()))
                    assert all(turn.end == "done" for turn in turns), turns
                    wall = max(turn.ended for turn in turns) - min(turn.sent for turn in turns)
                    tokens = sum(turn.tokens for turn in turns)
                    return Sample(len(texts), [turn.ttft_s for turn in turns], tokens, wall, turns[0].prompt_tokens)

                async def ask(kind: str, streams: int) -> Sample:
                    texts = questions(streams)
                    if kind == "product":
                        return await ask_product(texts)
                    answers = await asyncio.to_thread(others[kind].answer, prompts(texts), TOKENS)
                    return _sample(streams, answers)

                kinds = list(NAMES)
                for kind in kinds:
                    await ask(kind, max(STREAMS))  # warm
                used.clear()
                for turn in range(rounds):
                    for streams in STREAMS:
                        # everybody comes first equally often
                        for kind in kinds[turn % len(kinds) :] + kinds[: turn % len(kinds)]:
                            samples[kind].append(await ask(kind, streams))
            return samples

        samples = asyncio.run(measure())
    _tell(report, samples)
    _tell_usage(report, used, rounds)


def _sample(streams: int, answers: Answers) -> Sample:
    return Sample(streams, answers.first_s, sum(answers.tokens), answers.wall_s, answers.prompt_tokens[0])


def _tell(report: Report, samples: Samples) -> None:
    def over(kind: str, streams: int, what: Callable[[Sample], list[float]]) -> float:
        return median([value for one in samples[kind] if one.streams == streams for value in what(one)])

    def ttft(kind: str, streams: int) -> float:
        return over(kind, streams, lambda one: one.ttft_s)

    def rate(kind: str, streams: int) -> float:
        return over(kind, streams, lambda one: [one.rate])

    head = ["", *(f"{streams} conversation{'s' if streams > 1 else ''}" for streams in STREAMS)]
    report.tables.append(
        Table(
            ["median TTFT", *head[1:]],
            [[NAMES[kind], *(ms(ttft(kind, streams)) for streams in STREAMS)] for kind in NAMES],
        )
    )
    report.tables.append(
        Table(
            ["tokens/s, all together", *head[1:]],
            [[NAMES[kind], *(f"{rate(kind, streams):.0f}" for streams in STREAMS)] for kind in NAMES]
            + [
                ["product / bare pipeline", *(ratio(rate("product", n), rate("pipeline", n)) for n in STREAMS)],
                ["product / engine class", *(ratio(rate("product", n), rate("engine", n)) for n in STREAMS)],
                ["product / llama.cpp", *(ratio(rate("product", n), rate("llama", n)) for n in STREAMS)],
            ],
        )
    )
    share = {n: rate("product", n) / rate("pipeline", n) for n in STREAMS}
    added = {n: ttft("product", n) - ttft("engine", n) for n in STREAMS}
    report.goals += [
        Goal(
            "at least 0.95 of the bare engine's tokens/s",
            ", ".join(f"{value:.2f} at {n}" for n, value in share.items()),
            min(share.values()) >= 0.95,
        ),
        Goal(
            "at most 10 ms added to the engine's TTFT",
            ", ".join(f"{ms(value)} at {n}" for n, value in added.items()),
            max(added.values()) <= 0.010,
        ),
        Goal(
            "at least twice the tokens/s of llama.cpp's server at 8 conversations",
            ratio(rate("product", 8), rate("llama", 8)),
            rate("product", 8) >= 2 * rate("llama", 8),
        ),
        Goal(
            "at most a fifth of its TTFT at 8 conversations",
            f"{ttft('product', 8) / ttft('llama', 8):.2f}",
            ttft("product", 8) <= ttft("llama", 8) / 5,
        ),
    ]
    lengths = sorted({one.prompt_tokens for kind in NAMES for one in samples[kind]})
    counts = {kind: sum(one.tokens for one in samples[kind]) for kind in NAMES}
    report.notes.append(
        f"Prompts of {lengths[0]}–{lengths[-1]} tokens, replies of at most {TOKENS}, greedy, "
        f"{len(samples['product']) // len(STREAMS)} interleaved rounds; tokens made: "
        + ", ".join(f"{kind} {count}" for kind, count in counts.items())
    )
    report.samples |= samples


def _tell_usage(report: Report, used: dict[int, Counter[str]], rounds: int) -> None:
    names = sorted({name for sums in used.values() for name in sums})
    rows = [[name, *(ms(used[n][name] / rounds) for n in STREAMS)] for name in names]
    report.tables.append(Table(["processor time per round", *(str(n) for n in STREAMS)], rows))
    report.samples["cpu_s"] = {str(n): sums for n, sums in used.items()}
