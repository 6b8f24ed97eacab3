"""The index worker's engine: from a path to passages, through real processes."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from awkward_files import ENGLISH
from tokenizers import Tokenizer, models, pre_tokenizers

from reef.knowledge.chunking import ChunkSizes
from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.limits import ParseLimits
from reef.ports import EngineError, ParseFailed, ParsingEngine
from workers.engines.parser import ParserEngine


def make(folder: Path, tokenizer: Path) -> ParserEngine:
    """An engine that is not loaded yet."""
    return ParserEngine(
        processes=1, limits=ParseLimits(), scratch_dir=folder / "scratch", tokenizer=tokenizer, sizes=ChunkSizes()
    )


@pytest.fixture
def tokenizer(tmp_path: Path) -> Path:
    """Every word a token."""
    words = {word: number for number, word in enumerate(["[UNK]", *dict.fromkeys(ENGLISH.replace(".", " .").split())])}
    made = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    return tmp_path / "tokenizer.json"


def test_a_file_becomes_passages(tmp_path: Path, tokenizer: Path) -> None:
    """Load, parse, cut; files are counted, refusals too, and the library that reads is named."""
    engine = make(tmp_path, tokenizer)
    assert isinstance(engine, ParsingEngine)
    said: list[float] = []
    try:
        engine.load(lambda share, note: said.append(share))
        path = tmp_path / "reef.txt"
        path.write_text(ENGLISH * 100)
        chunks = engine.cut(engine.parse(path, path.name, threading.Event()))
        assert len(chunks) > 2
        with pytest.raises(ParseFailed):
            engine.parse(tmp_path / "gone.txt", "gone.txt", threading.Event())
        assert engine.steps() == 2
        assert engine.model.startswith("xberg 1.")
        assert said == sorted(said)
        assert said[-1] == 1.0
    finally:
        engine.close()


def test_without_a_tokenizer_it_says_so(tmp_path: Path) -> None:
    """The error names the file and what to do."""
    engine = make(tmp_path, tmp_path / "missing.json")
    with pytest.raises(EngineError, match=r"missing\.json.*Fetch"):
        engine.load(lambda share, note: None)
    with pytest.raises(EngineError, match="not loaded"):
        engine.cut(ParsedDocument(text="reef"))
