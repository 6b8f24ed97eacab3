"""The awkward corpus through real parsing processes: each is read well or refused clearly."""

from __future__ import annotations

import gc
import itertools
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from awkward_documents import CASES
from awkward_files import Case

from reef.knowledge.model import FAILURE_CODES, ParsedDocument
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.pool import ParserPool
from reef.ports import ParseFailed

CORPUS_MAX_S = 60.0
PARENT_GROWTH_MAX_BYTES = 80 * 1024 * 1024
HAS_OCR = shutil.which("tesseract") is not None


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All files of the corpus in one directory."""
    folder = tmp_path_factory.mktemp("corpus")
    for case in CASES:
        case.make(folder / case.name)
    return folder


@pytest.fixture(scope="module")
def pool(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ParserPool]:
    """Two children under the usual limits, but a shorter patience."""
    found = ParserPool(2, ParseLimits(time_s=20.0), tmp_path_factory.mktemp("scratch"))
    found.start()
    yield found
    found.close()


def test_the_corpus_is_large() -> None:
    """There are at least sixty awkward files, each with a name of its own."""
    assert len({case.name for case in CASES}) == len(CASES) >= 60


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_each_is_read_well_or_refused_clearly(case: Case, corpus: Path, pool: ParserPool) -> None:
    """Expected words are in the text, on their pages, below their headings; or the refusal has the expected code."""
    path = corpus / case.name
    expects_text = bool(case.words or case.pages) and (not case.code or HAS_OCR)
    if not expects_text:
        with pytest.raises(ParseFailed) as refused:
            pool.parse(path, case.name, threading.Event())
        assert refused.value.code in case.code.split("|"), str(refused.value)
        assert refused.value.code in FAILURE_CODES
        assert case.says in str(refused.value)
        return
    document = pool.parse(path, case.name, threading.Event())
    _holds(document)
    for word in case.words:
        assert word in document.text
    for word in case.absent:
        assert word not in document.text
    for word, number in case.pages.items():
        assert [page.number for page in document.pages if word in document.text[page.start : page.end]] == [number]
    titles = [document.text[block.start : block.end] for block in document.blocks if block.kind == "heading"]
    assert set(case.headings) <= set(titles)
    if not case.code:
        assert case.says in " ".join(document.warnings)
    assert case.encoding in {"", document.encoding}
    assert case.language in {"", document.language}


def test_none_holds_up_the_rest(corpus: Path, pool: ParserPool) -> None:
    """The whole corpus at once, on two children, ends in bounded time with the parent's memory as it was."""
    ends: dict[str, str] = {}

    def read(cases: list[Case]) -> None:
        for case in cases:
            try:
                pool.parse(corpus / case.name, case.name, threading.Event())
                ends[case.name] = "read"
            except ParseFailed as error:
                ends[case.name] = error.code

    process = psutil.Process()
    gc.collect()
    before = process.memory_info().rss
    began = time.monotonic()
    threads = [threading.Thread(target=read, args=(CASES[part::4],)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(CORPUS_MAX_S)
    took_s = time.monotonic() - began
    gc.collect()
    assert len(ends) == len(CASES)
    assert took_s < CORPUS_MAX_S
    assert process.memory_info().rss - before < PARENT_GROWTH_MAX_BYTES


def _holds(document: ParsedDocument) -> None:
    """What is true of every document."""
    text = document.text
    text.encode()  # no surrogates
    assert not any(ord(character) < 32 and character not in "\n\t" for character in text)
    spans = [(one.start, one.end) for one in (*document.pages, *document.blocks)]
    assert all(0 <= start <= end <= len(text) for start, end in spans)
    for pieces in (document.pages, document.blocks):
        starts = [(one.start, one.end) for one in pieces]
        assert all(first[1] <= second[0] for first, second in itertools.pairwise(starts))
