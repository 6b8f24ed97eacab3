"""Token counts and windows for backends whose tokenizer only the service has: guesses that err on the long side."""

from __future__ import annotations

from collections.abc import Sequence

from embeddings_engine.tokens import SENTENCE_ENDS, Item, Span

BYTES_PER_TOKEN = 3
"""English has about 4, code 3, other scripts more; a guess too long only makes a window shorter."""
LOOK_BACK_SHARE = 0.25


def estimated_tokens(text: str) -> int:
    """At least what a usual tokenizer makes of it."""
    return -(-len(text.encode("utf-8", "replace")) // BYTES_PER_TOKEN)


def estimated_items(texts: Sequence[str]) -> list[Item]:
    return [Item(text, (), estimated_tokens(text)) for text in texts]


def estimated_windows(text: str, tokens_max: int) -> list[Span]:
    """Spans of at most this many estimated tokens, cut after a sentence or a word where one ends late enough."""
    spans: list[Span] = []
    start = 0
    while estimated_tokens(text[start:]) > tokens_max:
        end = start + _fitting(text[start:], tokens_max)
        earliest = end - int((end - start) * LOOK_BACK_SHARE)
        cut = max((text.rfind(sign, earliest, end) for sign in SENTENCE_ENDS), default=-1)
        cut = cut if cut > start else text.rfind(" ", earliest, end)
        end = cut + 1 if cut > start else end
        spans.append(Span(start, end))
        start = end
    return [*spans, Span(start, len(text))] if start < len(text) or not spans else spans


def _fitting(text: str, tokens_max: int) -> int:
    """How many leading characters fit: at least one, so that the loop above ends."""
    head = text.encode("utf-8", "replace")[: tokens_max * BYTES_PER_TOKEN]
    return max(len(head.decode("utf-8", "ignore")), 1)
