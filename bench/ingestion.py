"""From files to answers on the product as shipped: documents an hour, chats beside an upload, memory, questions.

The product runs with the queues.yaml of the repository and its real parts. The files go in through `coral-reef ingest`,
in a process of its own, which shares the cores with everything else, as a script of a person would.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import httpx
import msgspec
import sqlalchemy as sa

from bench.chat import SYSTEM, TOPICS
from bench.client import Turn, conversations, make_persona
from bench.figures import mb, median, ms, percentile
from bench.machine import ROOT
from bench.product import DATA, Product, Usage, running, spent, the_model
from bench.report import Goal, Report, Table
from bench.two_pages import sentences, write_documents
from reef.records.database import Database
from reef.records.tables import documents, windows
from reef.settings import inherited_environment

FILES = DATA / "two_pages"
DOCUMENTS = 5000
BESIDE_CHATS = 1000
"""Documents of the upload that chats run beside."""
PER_HOUR_MIN = 20_000
TTFT_SHARE_MAX = 1.2
P95_QUESTION_MAX_S = 0.050
ROWS = 5
"""Looks at the memory over the whole upload."""
CHATS, CHAT_TOKENS, CHAT_PAUSE_S = 40, 16, 0.5
QUESTIONS, K = 200, 10
LOOK_S = 0.5
WAIT_MAX_S = 3600.0
_numbers = itertools.count(1)


class Look(msgspec.Struct, frozen=True):
    """The product at a moment of an upload."""

    at: float
    indexed: int
    usage: dict[str, Usage]


class Library:
    """The product, what was put into it, and how far that is. Counted in the records: asking the API would cost it."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.database = Database(product.processes.settings.sqlalchemy_url)

    def count(self, state: str) -> int:
        """Documents in a state."""
        query = sa.select(sa.func.count()).select_from(documents).where(documents.c.state == state)
        with self.database.read() as connection:
            return connection.execute(query).scalar_one()

    def windows(self) -> int:
        """Vectors in all."""
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(windows)).scalar_one()

    def look(self, began: float) -> Look:
        """How it stands."""
        return Look(time.perf_counter() - began, self.count("indexed"), self.product.usage())

    @contextmanager
    def ingesting(self, folder: Path, persona_id: str) -> Iterator[subprocess.Popen[bytes]]:
        """`coral-reef ingest` at work."""
        argv = [sys.executable, "-m", "cli", "ingest", str(folder), "--persona", persona_id]
        argv += ["--url", self.product.url]
        environment = inherited_environment() | self.product.processes.settings.environment()
        process = subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait()


def run(report: Report, count: int = DOCUMENTS, beside: int = BESIDE_CHATS) -> None:
    """Measure."""
    the_model()
    folder, second = _files(count, 1), _files(beside, 2)
    with _shipped() as product:
        library = Library(product)
        reader, other = make_persona(product.url, SYSTEM), make_persona(product.url, SYSTEM)
        try:
            looks = _ingest(library, folder, reader, count)
            _tell_rate(report, library, looks, count)
            _tell_memory(report, looks)
            product.wait_quiet()
            _tell_questions(report, _ask(product.url, reader), library)
            alone, busy = _chats(library, second, reader, other)
            _tell_chats(report, alone, busy)
        finally:
            library.database.dispose()


def _files(count: int, seed: int) -> Path:
    """A folder with so many documents, written once."""
    folder = FILES / f"{seed}-{count}"
    if not folder.is_dir():
        unfinished = folder.with_suffix(".part")
        shutil.rmtree(unfinished, ignore_errors=True)
        write_documents(unfinished, count, seed=seed)
        unfinished.rename(folder)
    return folder


@contextmanager
def _shipped() -> Iterator[Product]:
    for old in ("chroma", "originals", "scratch"):
        shutil.rmtree(DATA / old, ignore_errors=True)
    with running((ROOT / "queues.yaml").read_text(encoding="utf-8")) as product:
        yield product


def _ingest(library: Library, folder: Path, persona_id: str, count: int) -> list[Look]:
    """Upload and wait for the last document; looks at the start, after each share of the documents, and at the end."""
    began = time.perf_counter()
    looks = [library.look(began)]
    share = count // ROWS
    with library.ingesting(folder, persona_id) as client:
        while looks[-1].indexed < count:
            time.sleep(LOOK_S)
            if time.perf_counter() - began > WAIT_MAX_S or client.poll() not in (None, 0):
                raise RuntimeError(f"the upload does not end: {library.count('indexed')} of {count} are indexed")
            if library.count("indexed") >= min(len(looks) * share, count):
                looks.append(library.look(began))
    return looks


def _tell_rate(report: Report, library: Library, looks: Sequence[Look], count: int) -> None:
    last = looks[-1]
    per_hour = count / last.at * 3600
    vectors = library.windows()
    report.tables.append(
        Table(
            ["documents of 2 pages", "indexed in", "documents/hour", "vectors", "vectors/s"],
            [[f"{count:,}", f"{last.at:.0f} s", f"{per_hour:,.0f}", f"{vectors:,}", f"{vectors / last.at:.0f}"]],
        )
    )
    used = spent(looks[0].usage, last.usage)
    rows = [[name, ms(cpu_s / count)] for name, cpu_s in sorted(used.items(), key=lambda one: -one[1])]
    rows.append(["all of them, of the time both cores had", f"{sum(used.values()) / last.at / _cores():.0%}"])
    report.tables.append(Table(["part", "processor time a document"], rows))
    report.goals.append(
        Goal(f"at least {PER_HOUR_MIN:,} documents an hour", f"{per_hour:,.0f}", per_hour >= PER_HOUR_MIN)
    )
    report.samples["looks"] = looks


def _cores() -> int:
    return len(os.sched_getaffinity(0))


def _tell_memory(report: Report, looks: Sequence[Look]) -> None:
    names = sorted(looks[-1].usage)
    rows = [[f"{look.indexed:,}", *(mb(look.usage[name].rss_bytes) for name in names)] for look in looks]
    report.tables.append(Table(["indexed, memory (RSS) of", *names], rows))


def _ask(url: str, persona_id: str) -> list[float]:
    """Questions through the API, one after another; seconds of each."""
    chance, known = random.Random(3), sentences()
    times = []
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
        for _ in range(QUESTIONS):
            body = {"query": " ".join(chance.choice(known).split()[:12]), "persona_id": persona_id, "k": K}
            began = time.perf_counter()
            client.post("/api/v1/documents/query", json=body).raise_for_status()
            times.append(time.perf_counter() - began)
    return times


def _tell_questions(report: Report, times: list[float], library: Library) -> None:
    p95_s = percentile(times, 0.95)
    report.tables.append(
        Table(
            ["POST /documents/query, nothing else running", "p50", "p95"],
            [[f"{library.windows():,} vectors", ms(median(times)), ms(p95_s)]],
        )
    )
    limit = ms(P95_QUESTION_MAX_S)
    report.goals.append(Goal(f"a question over HTTP takes p95 under {limit}", ms(p95_s), p95_s < P95_QUESTION_MAX_S))
    report.samples["questions_s"] = times


def _chats(library: Library, folder: Path, reader: str, other: str) -> tuple[list[list[float]], list[list[float]]]:
    """TTFT of a persona without documents and of one with, before an upload and during one."""
    url = library.product.url
    personas = [other, reader]
    asyncio.run(_talk(url, personas, 2, threading.Event()))  # warm
    alone = asyncio.run(_talk(url, personas, CHATS, threading.Event()))
    ended = threading.Event()
    goal = library.count("indexed") + sum(1 for _ in folder.iterdir())
    # a persona of its own: what the others know, and so their prompts, stay as they were
    owner = make_persona(url, SYSTEM)

    with library.ingesting(folder, owner) as client:
        _until_busy(library)
        watch = threading.Thread(target=_await_end, args=(library, goal, client, ended), daemon=True)
        watch.start()
        busy = asyncio.run(_talk(url, personas, CHATS, ended))
    return alone, busy


def _until_busy(library: Library) -> None:
    deadline = time.monotonic() + 60
    while library.count("indexing") + library.count("embedding") == 0:
        if time.monotonic() > deadline:
            raise RuntimeError("the upload beside the chats does not begin")
        time.sleep(LOOK_S)


def _await_end(library: Library, goal: int, client: subprocess.Popen[bytes], ended: threading.Event) -> None:
    while library.count("indexed") < goal and client.poll() is None:
        time.sleep(LOOK_S)
    ended.set()


async def _talk(url: str, personas: Sequence[str], count: int, ended: threading.Event) -> list[list[float]]:
    """So many questions to each persona in turn, or until the upload has ended; their times to the first text."""
    found: list[list[float]] = [[] for _ in personas]
    for _ in range(count):
        for times, persona_id in zip(found, personas, strict=True):
            if ended.is_set():
                return found
            # a session each: a conversation that grows would grow its prompt
            async with conversations(url, persona_id, 1) as (talker,):
                turn: Turn = await talker.say(_question(), CHAT_TOKENS)
            assert turn.end == "done", turn
            times.append(turn.ttft_s)
            await asyncio.sleep(CHAT_PAUSE_S)
    return found


def _question() -> str:
    number = next(_numbers)
    return f"Letter {number}. Tell me at length about {TOPICS[number % len(TOPICS)]}."


def _tell_chats(report: Report, alone: list[list[float]], busy: list[list[float]]) -> None:
    rows = []
    for name, before, during in zip(("without documents", "that asks its documents"), alone, busy, strict=True):
        share = median(during) / median(before)
        rows.append([name, ms(median(before)), ms(median(during)), f"{share - 1:+.0%}", ms(percentile(during, 0.95))])
        report.goals.append(
            Goal(
                f"an upload adds at most 20 % to the median TTFT of a persona {name}",
                f"{share - 1:+.0%} over {len(during)} chats",
                share <= TTFT_SHARE_MAX,
            )
        )
    report.tables.append(
        Table(["TTFT of a persona", "alone, p50", "during an upload, p50", "change", "during, p95"], rows)
    )
    report.samples["chats_s"] = {"alone": alone, "busy": busy}
