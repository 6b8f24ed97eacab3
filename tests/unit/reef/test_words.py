"""Words of questions, and the words a text needs beside itself."""

from __future__ import annotations

from hypothesis import example, given
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


def test_marks_that_stand_for_themselves_are_nothing_in_plain() -> None:
    """A lone vowel, as an own letter of Unicode, is no word that every text would have."""
    assert plain_form("\ufe76") == plain_form("\ufcf2") == ""
    assert forms("\ufe76") == [("\ufe76",)]
    assert plain_form("سل\ufe76ام") == "سلام"
    assert extra_words("\ufe76") == ""
    assert forms("\ufdfa") == [("\ufdfa", "صلي الله عليه وسلم")]


def test_plain_english_needs_nothing_beside_it() -> None:
    """The column costs nothing where it is not needed."""
    assert extra_words("The quick brown fox, 42 times.") == ""
    assert extra_words("naïve fox") == "naive"
    assert extra_words("珊瑚礁 reef") == "珊瑚 瑚礁"


@given(st.text(alphabet=st.characters(categories=["L", "Nd", "Zs"])))
@example("\ufc5e")
@example("\ufdfa")
def test_what_a_question_asks_for_stands_beside_the_text(text: str) -> None:
    """Every pair and plain form that a question asks for is there, when the text is the question itself."""
    assert all(form.strip() for word in question_words(text) for form in word.forms)
    beside = set(extra_words(text).split())
    for word in question_words(text):
        if len(word.forms) > 1:
            assert beside.issuperset(word.forms[-1].split())


@given(st.text())
def test_no_text_breaks_it(text: str) -> None:
    """Whatever is in a document or a question, the result is bounded and holds no NUL."""
    assert len(question_words(text)) <= QUESTION_WORDS_MAX
    assert "\0" not in extra_words(text)
