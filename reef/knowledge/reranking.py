"""A second look at the best passages, by a model that reads question and passage together. Optional, and never in the
way: where it fails it is left alone for a while, and the order of the indexes stands. Asks through what it is given.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence

import msgspec

from reef.knowledge.model import Passage

log = logging.getLogger(__name__)

RERANKED_MAX = 20
"""Passages that are looked at again. What the indexes have behind these is hardly ever the best."""
LEFT_ALONE_S = 30.0
"""After a failure: a question waits once for a reranker that is away, not every question."""

Rank = Callable[[str, Sequence[str]], Sequence[float]]
"""How well each text answers a question, higher is better, on any scale. Raises RerankFailed."""


class RerankFailed(Exception):
    """The reranker gave no order; the message says why."""


class Reranking:
    """Puts passages in the order of a reranker. Thread-safe."""

    def __init__(self, rank: Rank, clock: Callable[[], float] = time.monotonic) -> None:
        self._rank, self._clock = rank, clock
        self._asked_again_at = 0.0

    def best_first(self, question: str, passages: Sequence[Passage]) -> list[Passage]:
        """The same passages; the first RERANKED_MAX in their new order, with scores of their new places."""
        looked_at, rest = passages[:RERANKED_MAX], passages[RERANKED_MAX:]
        if len(looked_at) < 2 or self._clock() < self._asked_again_at:
            return list(passages)
        try:
            scores = self._rank(question, [_text_of(passage) for passage in looked_at])
        except RerankFailed as error:
            self._asked_again_at = self._clock() + LEFT_ALONE_S
            log.warning("the reranker is left alone for %g s: %s", LEFT_ALONE_S, error)
            return list(passages)
        order = sorted(range(len(looked_at)), key=lambda at: -scores[at])
        # only the order counts: the scales of rerankers differ, and the choice that follows compares with the best
        top = max(passage.score for passage in passages)
        placed = [
            msgspec.structs.replace(
                looked_at[at],
                score=top / (1 + place / len(order)),
                why=f"no. {place + 1} when read again, {looked_at[at].why}",
            )
            for place, at in enumerate(order)
        ]
        lowest = placed[-1].score
        return [*placed, *(msgspec.structs.replace(passage, score=min(passage.score, lowest)) for passage in rest)]


def _text_of(passage: Passage) -> str:
    return "\n".join([" > ".join(passage.headings), passage.text] if passage.headings else [passage.text])
