"""The index worker's engine: from a path to passages, through real processes."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import NamedTuple

import pytest
from awkward_files import ENGLISH
from tokenizers import Tokenizer, models, pre_tokenizers

from reef.knowledge.chunking import ChunkSizes
from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.limits import ParseLimits
from reef.ports import EngineError, ParseFailed, ParsingEngine
from workers.engines.parser import ParserEngine


class Files(NamedTuple):
    """An embedding model of which only the tokenizer is here."""

    folder: Path
    window_tokens: int = 256


def make(folder: Path) -> ParserEngine:
    """An engine that is not loaded yet; its tokenizer is in the same folder."""
    return ParserEngine(
        processes=1,
        limits=ParseLimits(),
        scratch_dir=folder / "scratch",
        encoder=lambda progress: Files(folder),
        sizes=ChunkSizes(),
    )


@pytest.fixture
def tokenizer(tmp_path: Path) -> None:
    """Every word a token."""
    words = {word: number for number, word in enumerate(["[UNK]", *dict.fromkeys(ENGLISH.replace(".", " .").split())])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))


@pytest.mark.usefixtures("tokenizer")
def test_a_file_becomes_passages(tmp_path: Path) -> None:
    """Load, parse, cut; each file is a step, refused or not, and the library that reads is named."""
    engine = make(tmp_path)
    assert isinstance(engine, ParsingEngine)
    said: list[float] = []
    try:
        engine.load(lambda share, note: said.append(share))
        path = tmp_path / "reef.txt"
        path.write_text(ENGLISH * 100)
        chunks = engine.cut(engine.parse(path, path.name, threading.Event()))
        assert len(chunks) > 2
        steps = engine.steps()
        assert steps > 0
        with pytest.raises(ParseFailed):
            engine.parse(tmp_path / "gone.txt", "gone.txt", threading.Event())
        assert engine.steps() > steps
        assert engine.model.startswith("xberg 1.")
        assert said == sorted(said)
        assert said[-1] == 1.0
    finally:
        engine.close()


def test_without_a_tokenizer_it_says_so(tmp_path: Path) -> None:
    """The error names the file and what to do."""
    engine = make(tmp_path)
    with pytest.raises(EngineError, match=r"tokenizer\.json.*Fetch"):
        engine.load(lambda share, note: None)
    with pytest.raises(EngineError, match="not loaded"):
        engine.cut(ParsedDocument(text="reef"))
