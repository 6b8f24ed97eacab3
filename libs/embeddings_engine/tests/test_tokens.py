"""Windows cover a text whole and never hold more than the model reads."""

from __future__ import annotations

from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from embeddings_engine.estimates import estimated_tokens, estimated_windows
from embeddings_engine.tokens import TokenReader

TEXTS = st.text(max_size=600) | st.text(alphabet="ab .!?\n漢字🙂é\u0301", max_size=600)


@settings(deadline=None, max_examples=150)
@given(text=TEXTS, tokens_max=st.integers(2, 40))
def test_estimated_windows_cover_the_text(text: str, tokens_max: int) -> None:
    """Spans touch, begin at 0, end at the end, and hold at most the estimate (one character may be more)."""
    spans = estimated_windows(text, tokens_max)
    assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
    assert spans[-1].end == len(text)
    assert all(estimated_tokens(text[s.start : s.end]) <= tokens_max or s.end - s.start == 1 for s in spans)


def test_windows_cover_the_text_with_a_real_vocabulary(minilm: Path) -> None:
    """The same for the model's own tokens: read alone, no window has more than were asked for."""
    reader = TokenReader(minilm)

    @settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.too_slow])
    @given(text=TEXTS, tokens_max=st.integers(4, 40))
    def check(text: str, tokens_max: int) -> None:
        spans = reader.windows(text, tokens_max)
        assert [span.start for span in spans] == [0, *(span.end for span in spans[:-1])]
        assert spans[-1].end == len(text)
        for span, tokens in zip(spans, reader.count([text[s.start : s.end] for s in spans]), strict=True):
            assert tokens <= tokens_max or span.end - span.start == 1

    check()


def test_windows_end_with_sentences_where_they_can(minilm: Path) -> None:
    """A window ends after a full stop rather than in the middle of the next sentence."""
    text = "The wind is calm and the sea is flat. " * 40
    reader = TokenReader(minilm)
    spans = reader.windows(text, 64)
    assert len(spans) > 4
    assert all(text[: span.end].rstrip().endswith(".") for span in spans)


def test_counts_are_those_of_the_vocabulary(minilm: Path) -> None:
    """Special tokens are not counted; the tokenizer file's own truncation to 128 is switched off."""
    assert TokenReader(minilm).count(["", "hello world", "word " * 400]) == [0, 2, 400]
