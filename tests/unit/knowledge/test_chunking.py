"""Passages: exact spans, within the model's windows, cut where a reader would cut."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

from reef.knowledge.chunking import Chunker, ChunkSizes
from reef.knowledge.chunking.sentences import sentences
from reef.knowledge.chunking.tokens import TokenCounter
from reef.knowledge.model import Block, Page, ParsedDocument
from reef.knowledge.parsing.blocks import code_blocks, markdown_blocks, row_blocks
from reef.knowledge.parsing.draft import clean

SAMPLES = [
    "The reef is a ridge of rock and coral that lies close to the surface of the sea.",
    "Das Riff ist ein Rücken aus Fels und Korallen dicht unter der Oberfläche des Meeres.",
    "Коралловый риф является домом для многих рыб.",
    "الشعاب المرجانية موطن لكثير من الأسماك في البحر.",
    "珊瑚礁是海洋生物的家园。许多鱼类生活在那里。",
    "def depth(fish): return fish['depth'] + 1",
]
SIZES = ChunkSizes()
SMALL = ChunkSizes(tokens_target=512, tokens_max=512, overlap_tokens=32, window_tokens=64)


def bert() -> Tokenizer:
    """A small WordPiece tokenizer of the kind MiniLM and BGE have."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    names = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator(SAMPLES, trainers.WordPieceTrainer(vocab_size=400, special_tokens=names))
    tokenizer.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", None, [("[CLS]", 2), ("[SEP]", 3)])
    return tokenizer


def unigram() -> Tokenizer:
    """A small SentencePiece-like tokenizer of the kind the multilingual E5 models have."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(r"\s+"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=300, special_tokens=["<s>", "</s>", "<unk>"], unk_token="<unk>")
    tokenizer.train_from_iterator(SAMPLES, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("<s> $A </s>", None, [("<s>", 0), ("</s>", 1)])
    return tokenizer


def byte_pairs() -> Tokenizer:
    """A small tokenizer that works on bytes, blanks included."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(SAMPLES, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet))
    return tokenizer


COUNTERS = {"bert": TokenCounter(bert()), "unigram": TokenCounter(unigram())}
WORDS = st.sampled_from(
    ["reef", "the", "depth", "Korallen", "рыб", "البحر", "珊瑚礁", "。", "?", "👨‍👩‍👧‍👦", "👍🏽", "e\u0301", "שלום",
     "x" * 150, "QUJD" * 400, "a;b;c(d)" * 60, "\u200b" * 120, "1.5", "e.g.", "Dr."]
)  # fmt: skip
GAPS = st.sampled_from(
    [
        " ",
        "\n",
        "\n\n",
        ". ",
        "! ",
        "  ",
        "\t",
        "",
        " " * 300,
        "\n# Title\n\n",
        "\n```\n",
        "\n| a | b |\n|---|---|\n| c | d |\n",
    ]
)
TEXTS = st.lists(st.tuples(WORDS, GAPS, st.integers(1, 60)), max_size=25).map(
    lambda parts: "".join((word + gap) * times for word, gap, times in parts)
)


def check(document: ParsedDocument, chunker: Chunker, counter: TokenCounter) -> None:
    """Everything that holds for every document that a reader made."""
    assert document.text == clean(document.text)
    chunks = chunker.cut(document)
    assert chunks == chunker.cut(document)
    covered = [False] * len(document.text)
    windows = []
    for number, chunk in enumerate(chunks):
        assert chunk.number == number
        assert chunk.text == document.text[chunk.start : chunk.end]
        assert chunk.text.strip()
        covered[chunk.start : chunk.end] = [True] * len(chunk.text)
        assert chunk.windows[0][0] == 0
        assert chunk.windows[-1][1] == len(chunk.text)
        assert all(one[1] == other[0] for one, other in pairwise(chunk.windows))
        windows += [chunk.text[start:end] for start, end in chunk.windows]
    assert all(seen or character.isspace() for seen, character in zip(covered, document.text, strict=True))
    assert all(count <= chunker.sizes.window_tokens - counter.special for count in counter.count(windows))
    assert all(count <= chunker.sizes.tokens_max for count in counter.count([chunk.text for chunk in chunks]))
    assert all(chunk.tokens <= chunker.sizes.tokens_max for chunk in chunks)
    assert all(one.start < other.start and one.end < other.end for one, other in pairwise(chunks))


@pytest.mark.parametrize("kind", COUNTERS)
@settings(max_examples=60, deadline=None)
@given(text=TEXTS, sizes=st.sampled_from([SIZES, SMALL]), shape=st.sampled_from(["markdown", "code", "rows", "text"]))
def test_any_text_is_cut_within_its_limits(kind: str, text: str, sizes: ChunkSizes, shape: str) -> None:
    """Spans are exact, nothing but blanks is lost, no limit is passed, and twice cut is cut the same."""
    text = clean(text)
    makers = {"markdown": markdown_blocks, "code": code_blocks, "rows": row_blocks, "text": lambda _: []}
    document = ParsedDocument(text=text, blocks=tuple(makers[shape](text)))
    check(document, Chunker(COUNTERS[kind], sizes), COUNTERS[kind])


def test_words_that_are_longer_together_than_apart_do_not_pass_the_limit() -> None:
    """A model may see more tokens in a long word than in the parts it is cut into."""
    text = "reef reef reef reef " + "reef" * 58 + "البحر. " * 54
    chunker = Chunker(COUNTERS["unigram"], SMALL)
    document = ParsedDocument(text=text.strip())
    check(document, chunker, COUNTERS["unigram"])
    assert len(chunker.cut(document)) > 1


@pytest.mark.parametrize("kind", COUNTERS)
@settings(max_examples=40, deadline=None)
@given(text=st.text(max_size=3000))
def test_any_characters_are_cut_within_their_limits(kind: str, text: str) -> None:
    """The same for whatever Unicode has."""
    check(ParsedDocument(text=clean(text)), Chunker(COUNTERS[kind], SMALL), COUNTERS[kind])


@pytest.mark.parametrize("make", [bert, unigram, byte_pairs])
@pytest.mark.parametrize("script", range(len(SAMPLES)))
def test_long_texts_in_every_script(script: int, make: Callable[[], Tokenizer]) -> None:
    """Passages come close to the target in any script, from the right as from the left, with any kind of tokens."""
    counter = TokenCounter(make())
    chunker = Chunker(counter, SIZES)
    document = ParsedDocument(text=(SAMPLES[script] + "\n") * 400)
    check(document, chunker, counter)
    chunks = chunker.cut(document)
    assert min(chunk.tokens for chunk in chunks[:-1]) > SIZES.tokens_target * 0.8


def test_headings_begin_passages_and_name_them() -> None:
    """A section that is no morsel has a passage of its own, with the path of headings it stands under."""
    body = (SAMPLES[0] + " ") * 16
    text = f"# Reef\n\n{body}\n\n## Fish\n\n{body}\n\n### Sharks\n\n{body}\n\n## Rocks\n\n{body}\n"
    chunks = Chunker(COUNTERS["bert"], SIZES).cut(ParsedDocument(text=text, blocks=tuple(markdown_blocks(text))))
    starts = {chunk.text.split("\n")[0]: chunk.headings for chunk in chunks}
    assert starts["## Fish"] == ("Reef", "Fish")
    assert starts["### Sharks"] == ("Reef", "Fish", "Sharks")
    assert starts["## Rocks"] == ("Reef", "Rocks")


def test_small_sections_share_a_passage() -> None:
    """Morsels are put together, under the path that is common to them."""
    text = "# Glossary\n\n" + "".join(f"## Term {n}\n\nA word about it.\n\n" for n in range(8))
    chunks = Chunker(COUNTERS["bert"], SIZES).cut(ParsedDocument(text=text, blocks=tuple(markdown_blocks(text))))
    assert [chunk.headings for chunk in chunks] == [("Glossary",)]


def test_rows_and_lines_are_never_cut() -> None:
    """Passages of a table end at the end of a row, and say its columns; passages of code at the end of a line."""
    rows = "\n".join(["fish | depth | note", *(f"fish {n} | {n} | seen near the reef" for n in range(400))])
    lines = "\n".join(f"    depth_{n} = measure(fish[{n}], 'reef')" for n in range(400))
    chunker = Chunker(COUNTERS["bert"], SIZES)
    for text, blocks in ((rows, row_blocks(rows)), (lines, code_blocks(lines))):
        chunks = chunker.cut(ParsedDocument(text=text, blocks=tuple(blocks)))
        assert len(chunks) > 3
        assert "\n".join(chunk.text for chunk in chunks) == text
    chunks = chunker.cut(ParsedDocument(text=rows, blocks=tuple(row_blocks(rows))))
    assert [chunk.headings for chunk in chunks[:3]] == [(), ("fish | depth | note",), ("fish | depth | note",)]


def test_cut_sections_overlap_by_whole_sentences() -> None:
    """A passage repeats the last sentences of the one before, never more than asked for, never half of one."""
    text = " ".join(f"Sentence number {n} is about the reef and its fish." for n in range(200))
    chunker = Chunker(COUNTERS["bert"], SIZES)
    chunks = chunker.cut(ParsedDocument(text=text))
    for one, other in pairwise(chunks):
        repeated = text[other.start : one.end]
        assert repeated.startswith("Sentence number")
        assert repeated.endswith(".")
        assert COUNTERS["bert"].count([repeated])[0] <= SIZES.overlap_tokens


def test_pages_are_told() -> None:
    """A passage says on which page it begins and ends."""
    parts = [f"Page {n} begins. " + SAMPLES[0] * 12 for n in range(1, 5)]
    text, pages = "", []
    for number, part in enumerate(parts, start=1):
        pages.append(Page(number, len(text), len(text) + len(part)))
        text += part + "\n\n"
    chunks = Chunker(COUNTERS["bert"], SIZES).cut(ParsedDocument(text=text, pages=tuple(pages)))
    for chunk in chunks:
        assert chunk.page_first is not None
        first = pages[chunk.page_first - 1]
        last = pages[(chunk.page_last or 0) - 1]
        assert first.start <= chunk.start < first.end
        assert last.start < chunk.end <= last.end
        begun = [page for page in pages if chunk.start < page.start < chunk.end]
        assert [(one.number, chunk.start + one.start) for one in chunk.page_starts] == [
            (page.number, page.start) for page in begun
        ]
    assert any(chunk.page_starts for chunk in chunks)


def test_windows_are_even() -> None:
    """A passage is not read as a whole window and a rest of two words."""
    chunk = Chunker(COUNTERS["bert"], SIZES).cut(ParsedDocument(text=" ".join(SAMPLES[:1] * 20)))[0]
    counts = COUNTERS["bert"].count([chunk.text[start:end] for start, end in chunk.windows])
    assert min(counts) > max(counts) * 0.6


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. Smith saw it, e.g. at noon. Then he left.", ["Dr. Smith saw it, e.g. at noon.", "Then he left."]),
        ("J. R. Ewing asked: why? Nobody knew!", ["J. R. Ewing asked: why?", "Nobody knew!"]),
        ("It is 3.5 m deep. \"Really?\" Yes.", ["It is 3.5 m deep.", '"Really?"', "Yes."]),
        ("魚がいます。「本当?」はい！", ["魚がいます。", "「本当?」はい！"]),
        ("هل هذا صحيح؟ نعم.", ["هل هذا صحيح؟", "نعم."]),
        ("यह मछली है। वह नहीं।", ["यह मछली है।", "वह नहीं।"]),
        ("a title\n\nand a text\nover two lines", ["a title", "and a text\nover two lines"]),
        ("The end... of a story. New one.", ["The end... of a story.", "New one."]),
    ],
)  # fmt: skip
def test_sentences(text: str, expected: list[str]) -> None:
    """Where sentences end in several scripts, and where they only seem to."""
    assert [text[start:end] for start, end in sentences(text, 0, len(text))] == expected


def test_a_tokenizer_file_is_enough(tmp_path: Path) -> None:
    """The chunker reads tokenizer.json, and undoes the truncation that such files often ask for."""
    tokenizer = bert()
    tokenizer.enable_truncation(8)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    chunker = Chunker.from_file(tmp_path / "tokenizer.json", SIZES)
    assert chunker.cut(ParsedDocument(text=SAMPLES[0] * 5))[0].tokens > 50


@pytest.mark.parametrize(
    "wrong",
    [
        {"tokens_target": 100},
        {"tokens_target": 4096},
        {"tokens_max": 300},
        {"overlap_tokens": 400},
        {"window_tokens": 4},
    ],
)
def test_sizes_that_contradict_one_another_are_refused(wrong: dict[str, int]) -> None:
    """The sentence says which."""
    with pytest.raises(ValueError, match=next(iter(wrong))):
        ChunkSizes(**wrong)


def test_blocks_in_any_order_are_cut_the_same() -> None:
    """A reader that finds its tables before its headings does no harm."""
    text = "# Reef\n\nfish\n\n| a | b |\n|---|---|\n| 1 | 2 |\n\n## Rocks\n\nstone\n"
    blocks: list[Block] = markdown_blocks(text)
    shuffled = random.Random(1).sample(blocks, len(blocks))
    chunker = Chunker(COUNTERS["bert"], SIZES)
    in_order = chunker.cut(ParsedDocument(text=text, blocks=tuple(blocks)))
    assert chunker.cut(ParsedDocument(text=text, blocks=tuple(shuffled))) == in_order


class Asked:
    """A tokenizer, or what it found, that notes what it was asked for."""

    def __init__(self, real: Any, asked: Counter[str]) -> None:
        self._real, self._asked = real, asked

    def __getattr__(self, name: str) -> Any:
        self._asked[name] += 1
        return getattr(self._real, name)

    def __len__(self) -> int:
        return len(self._real)

    def encode(self, *arguments: Any, **options: Any) -> Asked:
        return Asked(self._real.encode(*arguments, **options), self._asked)


def test_a_long_sentence_takes_as_long_as_it_is() -> None:
    """No list of all its tokens is made for each window: that would take their number squared."""
    asked: Counter[str] = Counter()
    counter = TokenCounter(Asked(bert(), asked))  # type: ignore[arg-type]
    assert len(list(counter.parts("var a=1;function b(){return a+a};" * 400, 254))) > 20
    assert not asked.keys() & {"offsets", "word_ids", "ids", "tokens", "spans"}
    assert asked["token_to_chars"]
