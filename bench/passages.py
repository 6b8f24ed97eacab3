"""Files to text in child processes, and text to passages: milliseconds a document, megabytes a second."""

from __future__ import annotations

import io
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench.figures import median, ms, percentile
from bench.machine import ROOT
from bench.report import Report, Table
from reef.knowledge.chunking import Chunker, ChunkSizes
from reef.knowledge.chunking.tokens import TokenCounter
from reef.knowledge.model import ParsedDocument
from reef.knowledge.parsing.blocks import markdown_blocks
from reef.knowledge.parsing.limits import ParseLimits
from reef.knowledge.parsing.pool import ParserPool

ONE_BY_ONE = 60
AT_ONCE = 400
PROCESSES = 2
TEXT_BYTES = 3_000_000
VOCABULARY = 8_000
ROUNDS = 3
SENTENCE = "The reef is a ridge of rock and coral that lies close to the surface of the sea. "
PAGE = SENTENCE * 40


def run(report: Report) -> None:
    """Measure."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = _documents(folder)
        pool = ParserPool(PROCESSES, ParseLimits(), folder / "scratch")
        began = time.perf_counter()
        pool.start()
        ready_s = time.perf_counter() - began
        try:
            one_by_one = {path.suffix[1:]: [_read(pool, path) for _ in range(ONE_BY_ONE)] for path in paths}
            began = time.perf_counter()
            with ThreadPoolExecutor(PROCESSES * 2) as threads:
                list(threads.map(lambda number: _read(pool, paths[number % len(paths)]), range(AT_ONCE)))
            at_once_s = time.perf_counter() - began
        finally:
            pool.close()
    rows = [[kind, ms(median(times)), ms(percentile(times, 0.95))] for kind, times in one_by_one.items()]
    report.tables.append(Table(["2-page document to text, through a child", "p50", "p95"], rows))
    per_hour = AT_ONCE / at_once_s * 3600
    report.tables.append(
        Table(
            ["children", "all ready after", "documents an hour, formats mixed"],
            [[str(PROCESSES), ms(ready_s), f"{per_hour:,.0f}"]],
        )
    )
    cuts = _cuts()
    report.tables.append(Table(["text to passages", "MB/s, best of 3", "passages", "tokens each"], cuts))
    report.notes.append(f"Tokenizer: WordPiece of {VOCABULARY:,} words, trained on the text that is cut.")
    report.samples = {"one_by_one_s": one_by_one, "at_once_s": at_once_s}


def _read(pool: ParserPool, path: Path) -> float:
    began = time.perf_counter()
    pool.parse(path, path.name, threading.Event())
    return time.perf_counter() - began


def _cuts() -> list[list[str]]:
    pages = [path.read_text(encoding="utf-8") for path in sorted((ROOT / "docs").rglob("*.md"))]
    text = "\n\n".join(pages)
    text *= -(-TEXT_BYTES // len(text.encode()))
    chunker = Chunker(_tokens(pages), ChunkSizes())
    rows = []
    for name, blocks in (("Markdown with headings and tables", tuple(markdown_blocks(text))), ("plain text", ())):
        times = []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            chunks = chunker.cut(ParsedDocument(text=text, blocks=blocks))
            times.append(time.perf_counter() - began)
        each = sum(chunk.tokens for chunk in chunks) / len(chunks)
        rows.append([name, f"{len(text.encode()) / 1e6 / min(times):.1f}", f"{len(chunks):,}", f"{each:.0f}"])
    return rows


def _tokens(pages: list[str]) -> TokenCounter:
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=VOCABULARY, special_tokens=["[UNK]"], show_progress=False)
    tokenizer.train_from_iterator(pages, trainer)
    return TokenCounter(tokenizer)


def _documents(folder: Path) -> list[Path]:
    contents: dict[str, bytes] = {
        "pdf": _pdf(),
        "docx": _docx(),
        "html": f"<html><body><h1>Reef</h1><p>{PAGE}</p><h2>Fish</h2><p>{PAGE}</p></body></html>".encode(),
        "md": f"# Reef\n\n{PAGE}\n\n## Fish\n\n{PAGE}\n".encode(),
    }
    paths = []
    for kind, content in contents.items():
        path = folder / f"document.{kind}"
        path.write_bytes(content)
        paths.append(path)
    return paths


def _pdf() -> bytes:
    from reportlab.pdfgen.canvas import Canvas

    memory = io.BytesIO()
    canvas = Canvas(memory)
    for _ in range(2):
        for line, at in enumerate(range(0, len(PAGE), 90)):
            canvas.drawString(50, 800 - 14 * line, PAGE[at : at + 90])
        canvas.showPage()
    canvas.save()
    return memory.getvalue()


def _docx() -> bytes:
    from docx import Document

    document = Document()
    for title in ("Reef", "Fish"):
        document.add_heading(title, 1)
        document.add_paragraph(PAGE)
    memory = io.BytesIO()
    document.save(memory)
    return memory.getvalue()
