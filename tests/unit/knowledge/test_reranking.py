"""Passages in the order of a reranker, and in their own where there is none to ask."""

from __future__ import annotations

from collections.abc import Sequence

from reef.knowledge.model import Passage
from reef.knowledge.reranking import LEFT_ALONE_S, RERANKED_MAX, RerankFailed, Reranking


def passages(count: int) -> list[Passage]:
    """Passages as the indexes order them."""
    return [
        Passage(
            chunk_id=n,
            document_id="d",
            name="n",
            title="t",
            text=f"text {n}",
            start=0,
            end=1,
            tokens=1,
            headings=("Tides",),
            score=1.0 - n / 100,
            why="no. 1 by words",
        )
        for n in range(count)
    ]


class Ranker:
    """Likes late numbers, until told to fail."""

    def __init__(self) -> None:
        self.asked: list[Sequence[str]] = []
        self.fails = False
        self.now = 0.0

    def rank(self, question: str, texts: Sequence[str]) -> Sequence[float]:
        assert question == "which?"
        self.asked.append(texts)
        if self.fails:
            raise RerankFailed("away")
        return [float(text.split()[-1]) for text in texts]


def test_the_best_are_put_in_the_rerankers_order_and_the_rest_stays_behind_them() -> None:
    """With falling scores, and a word about it for a person."""
    ranker = Ranker()
    found = Reranking(ranker.rank).best_first("which?", passages(RERANKED_MAX + 3))
    order = [passage.chunk_id for passage in found]
    assert order == [*reversed(range(RERANKED_MAX)), *range(RERANKED_MAX, RERANKED_MAX + 3)]
    scores = [passage.score for passage in found]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] == 1.0
    assert found[0].why == "no. 1 when read again, no. 1 by words"
    assert ranker.asked[0][0] == "Tides\ntext 0"


def test_one_that_fails_is_left_alone_for_a_while() -> None:
    """Every question is answered in the order of the indexes meanwhile; then it is asked again."""
    ranker = Ranker()
    reranking = Reranking(ranker.rank, lambda: ranker.now)
    ranker.fails = True
    given = passages(5)
    assert reranking.best_first("which?", given) == given
    ranker.fails = False
    assert reranking.best_first("which?", given) == given
    assert len(ranker.asked) == 1
    ranker.now = LEFT_ALONE_S
    assert [passage.chunk_id for passage in reranking.best_first("which?", given)] == [4, 3, 2, 1, 0]


def test_one_passage_or_none_is_not_worth_a_question() -> None:
    """Nothing could change."""
    ranker = Ranker()
    reranking = Reranking(ranker.rank)
    assert reranking.best_first("which?", []) == []
    assert len(reranking.best_first("which?", passages(1))) == 1
    assert ranker.asked == []
