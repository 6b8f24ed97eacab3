"""Which models will be asked for next: a prediction from the last hours' turns. Pure arithmetic over what was said.

Two things are mixed: how often a model was wanted lately (each turn counts half as much an hour later), and what
usually followed the model that was wanted last. The second counts the more, the more often that was seen.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import sqlalchemy as sa

from reef.records.database import Database
from reef.records.tables import messages, personas

HALF_LIFE_S = 3600.0
WINDOW_S = 8 * 3600.0
"""Older turns say nothing any more."""
TURNS_MAX = 2_000
SURE_AFTER = 3.0
"""So many turns after the last model, and what followed it counts as much as how often each was wanted."""


class Turn(msgspec.Struct, frozen=True):
    """A reply that was wanted from a model; empty: the pool's own."""

    at: float
    model: str


class Likely(msgspec.Struct, frozen=True):
    """A model and how likely it is wanted next, 0..1."""

    model: str
    share: float


def predict(turns: Sequence[Turn], now: float) -> list[Likely]:
    """The models of these turns (oldest first), likeliest first. The shares add up to 1."""
    weights = [0.5 ** (max(0.0, now - turn.at) / HALF_LIFE_S) for turn in turns]
    often = _shares((turn.model, weight) for turn, weight in zip(turns, weights, strict=True))
    if not often:
        return []
    last = turns[-1].model
    followed = [
        (after.model, weight)
        for before, after, weight in zip(turns, turns[1:], weights[1:], strict=False)
        if before.model == last
    ]
    seen = sum(weight for _, weight in followed)
    sure = seen / (seen + SURE_AFTER)
    after_last = _shares(followed)
    found = [Likely(model, (1 - sure) * share + sure * after_last.get(model, 0.0)) for model, share in often.items()]
    return sorted(found, key=lambda likely: (-likely.share, likely.model))


def recent_turns(database: Database, clock: Callable[[], float] = time.time) -> list[Turn]:
    """The replies of the last hours with their personas' models, oldest first."""
    query = (
        sa.select(messages.c.created_at, personas.c.model)
        .join(personas, personas.c.id == messages.c.persona_id)
        .where(messages.c.role == "assistant", messages.c.created_at > clock() - WINDOW_S)
        .order_by(messages.c.number.desc())
        .limit(TURNS_MAX)
    )
    with database.read() as connection:
        rows = connection.execute(query).all()
    return [Turn(at, model) for at, model in reversed(rows)]


def _shares(weighted: Iterable[tuple[str, float]]) -> Mapping[str, float]:
    sums: dict[str, float] = {}
    for model, weight in weighted:
        sums[model] = sums.get(model, 0.0) + weight
    whole = sum(sums.values())
    return {model: value / whole for model, value in sums.items()} if whole else {}
