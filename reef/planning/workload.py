"""The load a plan is asked for: who speaks how often, with prompts and replies of which lengths. Seeded random numbers.

Two kinds of arrivals. Conversations: each person reads and thinks a while after a reply, then asks again (so a slow
reef is asked less). Open arrivals, `turns_per_s`: turns come at random whatever the reef does, one by one or in bursts.
"""

from __future__ import annotations

import math
import random
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from reef.planning.values import BadValue, read_values

Lengths = Literal["fixed", "exponential", "lognormal"]
LOGNORMAL_SIGMA = 0.6
"""Half of all replies are then between two thirds and one and a half times the median."""


class Load(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What is asked of a reef."""

    conversations: Annotated[int, Meta(ge=1, le=10_000)] | None = None
    """People who talk at the same time. None: one for every four devices, as in the specification."""
    think_s: Annotated[float, Meta(ge=0)] = 10.0
    """Mean pause between a reply and the next message, exponentially distributed."""
    turns_per_s: Annotated[float, Meta(gt=0)] | None = None
    """Open arrivals instead of conversations."""
    burst: Annotated[int, Meta(ge=1, le=10_000)] = 1
    """So many turns come in the same moment."""
    prompt: Annotated[float, Meta(ge=0)] = 200.0
    """Mean tokens of a prompt that no cache holds."""
    reply: Annotated[float, Meta(ge=1)] = 120.0
    """Mean tokens of a reply."""
    lengths: Lengths = "lognormal"
    personas: Annotated[int, Meta(ge=1, le=1000)] = 10
    """As in the specification's allocation; the n-th is talked to in proportion to 1/n."""
    models: Annotated[int, Meta(ge=1, le=1000)] = 1
    """Different models of the same size among the personas; 1: all speak with the same, as queues.yaml ships."""
    waiting_max: Annotated[int, Meta(ge=1)] = 256
    """Turns that may wait in the pool; the next is refused, as queues.yaml ships."""
    device_mtbf_h: Annotated[float, Meta(gt=0)] | None = 720.0
    """Mean hours between failures of one device; None: none fails."""
    repair_s: Annotated[float, Meta(gt=0)] = 60.0
    """Until a failed device is used again: restart, and the quarantine it is put in."""

    def talkers(self, devices: int) -> int:
        """Conversations on so many devices."""
        return self.conversations or max(1, devices // 4)


class UnknownLoad(ValueError):
    """The text describes no load; the message names what is expected."""


def parse_load(text: str) -> Load:
    """`conversations=24,think_s=5,reply=200`. Raises UnknownLoad."""
    values: dict[str, str | None] = {}
    for part in filter(None, (piece.strip() for piece in text.split(","))):
        name, separator, value = part.partition("=")
        if not separator or name not in Load.__struct_fields__:
            raise UnknownLoad(
                f"{part!r}: expected NAME=VALUE, where NAME is one of {', '.join(Load.__struct_fields__)}."
            )
        values[name] = None if value == "none" else value
    try:
        return read_values(Load, values)
    except BadValue as error:
        raise UnknownLoad(f"load: {error}.") from None


class Draws:
    """The random numbers of one run: the same seed gives the same people, whatever the devices do."""

    def __init__(self, load: Load, seed: int) -> None:
        self._load = load
        self._weights = [1 / place for place in range(1, load.personas + 1)]
        self._arrivals = random.Random(f"{seed} arrivals")  # noqa: S311 - a simulation, not a secret
        self._seed = seed

    def of(self, name: str) -> random.Random:
        """A sequence of its own for one conversation or one device, so that none disturbs another's."""
        return random.Random(f"{self._seed} {name}")  # noqa: S311

    def persona(self, numbers: random.Random) -> int:
        """Whom somebody talks to."""
        return numbers.choices(range(self._load.personas), self._weights)[0]

    def gap_s(self) -> float:
        """Time between two open arrivals."""
        rate = (self._load.turns_per_s or 0.0) / self._load.burst
        return self._arrivals.expovariate(rate)

    def length(self, numbers: random.Random, mean: float, least: float) -> float:
        """Tokens of a prompt or a reply."""
        if self._load.lengths == "fixed" or mean == 0:
            return mean
        if self._load.lengths == "exponential":
            return max(least, numbers.expovariate(1 / mean))
        return max(least, numbers.lognormvariate(math.log(mean) - LOGNORMAL_SIGMA**2 / 2, LOGNORMAL_SIGMA))
