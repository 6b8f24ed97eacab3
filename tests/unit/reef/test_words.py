"""Words of questions, and the words a text needs beside itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from reef.records.words import QUESTION_WORDS_MAX, extra_words, plain_form, question_words


def forms(question: str) -> list[tuple[str, ...]]:
    """The forms of each word."""
    return [word.forms for word in question_words(question)]


def test_a_question_is_cut_into_what_it_is_about() -> None:
    """Stop words go while anything else is there; each word comes once."""
    assert forms("Where is the lighthouse of the lighthouse keeper?") == [("lighthouse",), ("keeper",)]
    assert forms("what is it") == [("what",), ("is",), ("it",)]
    assert forms("?!  😀 __") == []


def test_a_path_or_a_code_counts_whole_and_in_parts() -> None:
    """The whole ranks first, its parts find what is written otherwise."""
    assert forms("cli/launch.py") == [("cli/launch.py",), ("cli",), ("launch",), ("py",)]
    assert forms("E-4711") == [("e-4711",), ("4711",)]
    assert ("c++",) in forms("C++")


def test_words_with_marks_have_a_plain_form() -> None:
    """Accents, vowel marks, ligatures, wide letters: found however they are typed."""
    assert [plain_form(word) for word in ("Éclair", "Straße", "ﬁsh", "Ｗｉｄｅ", "اَلسَّلَامُ", "Łódź")] == [
        "eclair", "strasse", "fish", "wide", "السلام", "łodz",
    ]  # fmt: skip
    assert forms("Éclair") == [("éclair", "eclair")]


def test_plain_english_needs_nothing_beside_it() -> None:
    """The column costs nothing where it is not needed."""
    assert extra_words("The quick brown fox, 42 times.") == ""
    assert extra_words("naïve fox") == "naive"
    assert extra_words("珊瑚礁 reef") == "珊瑚 瑚礁"


@given(st.text(alphabet=st.characters(categories=["L", "Nd", "Zs"])))
def test_what_a_question_asks_for_stands_beside_the_text(text: str) -> None:
    """Every pair and plain form that a question asks for is there, when the text is the question itself."""
    beside = set(extra_words(text).split())
    for word in question_words(text):
        if len(word.forms) > 1:
            assert word.forms[-1] in beside


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    """Whatever is in a document or a question, the result is bounded and holds no NUL."""
    assert len(question_words(text)) <= QUESTION_WORDS_MAX
    assert "\0" not in extra_words(text)
