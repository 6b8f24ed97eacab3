"""Which model is asked for next: the prediction against the simple one."""

from __future__ import annotations

import random
from collections import Counter

from reef.models.demand import HALF_LIFE_S, Turn, predict


def made_history(seed: int) -> list[Turn]:
    """A day in two halves: first mostly `big`; then `writer` and `critic` in turn, with `big` now and then."""
    pick, turns, at = random.Random(seed), [], 0.0
    for _ in range(400):
        at += pick.uniform(20, 60)
        turns.append(Turn(at, "big" if pick.random() < 0.9 else pick.choice(["writer", "critic"])))
    after = "writer"
    for _ in range(250):
        at += pick.uniform(20, 60)
        if pick.random() < 0.12:
            turns.append(Turn(at, "big"))
            continue
        turns.append(Turn(at, after))
        after = "critic" if after == "writer" else "writer"
    return turns


def hits(turns: list[Turn], guess: object) -> float:
    """How often the model that was asked for next, and is not the one that serves, was the one that was guessed."""
    found = [
        guess(turns[:place], turns[place - 1].model, turns[place].at) == turns[place].model  # type: ignore[operator]
        for place in range(20, len(turns))
        if turns[place].model != turns[place - 1].model
    ]
    return sum(found) / len(found)


def predicted(before: list[Turn], serves: str, now: float) -> str:
    """What this program would keep in memory beside the model that serves."""
    return next(likely.model for likely in predict(before[-2000:], now) if likely.model != serves)


def most_used(before: list[Turn], serves: str, _now: float) -> str:
    """What counting alone would keep."""
    return next(model for model, _ in Counter(turn.model for turn in before).most_common() if model != serves)


def lately_used(before: list[Turn], serves: str, now: float) -> str:
    """What counting with decay alone would keep."""
    weights: Counter[str] = Counter()
    for turn in before:
        weights[turn.model] += 0.5 ** ((now - turn.at) / HALF_LIFE_S)  # type: ignore[assignment]
    return next(model for model, _ in weights.most_common() if model != serves)


def test_it_beats_counting() -> None:
    """Over ten made days it finds the next model clearly more often than the most used, and than decay alone."""
    days = [made_history(seed) for seed in range(10)]
    ours = sum(hits(day, predicted) for day in days) / len(days)
    counted = sum(hits(day, most_used) for day in days) / len(days)
    decayed = sum(hits(day, lately_used) for day in days) / len(days)
    assert ours > counted + 0.1, (ours, counted, decayed)
    assert ours > decayed + 0.05, (ours, counted, decayed)


def test_shares_add_up_and_old_turns_fade() -> None:
    """Likelihoods of all models sum to one; what was said long ago weighs little; nothing said predicts nothing."""
    found = predict([Turn(0.0, "old"), Turn(10 * HALF_LIFE_S, "new")], 10 * HALF_LIFE_S)
    assert abs(sum(likely.share for likely in found) - 1.0) < 1e-9
    assert found[0].model == "new"
    assert predict([], 5.0) == []
