"""From tokens to text: whole characters and stop strings, however they are cut."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from workers.engines.text import StopStrings, Utf8Stream


@given(st.text(), st.lists(st.integers(0, 200)))
def test_characters_are_never_cut(text: str, cuts: list[int]) -> None:
    """However the bytes are divided, no piece holds half a character and together they are the text."""
    data, places = text.encode("utf-8", "surrogatepass"), sorted(cuts)
    if "\ufffd" in text or any("\ud800" <= character <= "\udfff" for character in text):
        return
    stream, pieces, at = Utf8Stream(), [], 0
    for place in [*(p for p in places if p < len(data)), len(data)]:
        pieces.append(stream.feed(data[at:place]))
        at = place
    assert "".join(pieces) == text
    assert not any("\ufffd" in piece for piece in pieces)


def test_half_a_character_at_the_end_is_left_out() -> None:
    """A reply that ends in the middle of a character ends before it."""
    stream = Utf8Stream()
    assert stream.feed("fish 🐠".encode()[:-1]) == "fish "


@given(st.text(alphabet="ab<>", max_size=40), st.integers(1, 5), st.lists(st.text("ab<>", min_size=1, max_size=4)))
def test_stop_strings_are_found_across_pieces(text: str, size: int, stops: list[str]) -> None:
    """The output is the text up to the first stop string, wherever the pieces begin and end."""
    finder, out = StopStrings(stops), ""
    for at in range(0, len(text), size):
        out += finder.feed(text[at : at + size])
        if finder.hit:
            break
    out += finder.rest()
    ends = [place for stop in stops if (place := text.find(stop)) >= 0]
    if not ends:
        assert out == text
        assert not finder.hit
        return
    assert finder.hit
    assert text.startswith(out)
    assert not any(stop in out for stop in stops)
    if size == 1:  # token by token, nothing can be overtaken
        first_end = min(text.find(stop) + len(stop) for stop in stops if stop in text)
        assert len(out) < first_end


def test_nothing_is_held_back_without_reason() -> None:
    """Text that cannot become a stop string goes out at once; what might is given out when it does not."""
    finder = StopStrings(["</s>"])
    assert finder.feed("hello <") == "hello "
    assert finder.feed("b") == "<b"
    assert finder.feed(" </") == " "
    assert finder.rest() == "</"
