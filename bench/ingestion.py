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
import time
from collections.abc import Callable, Iterator, Sequence
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
from reef.records.tables import documents, uploads, windows
from reef.settings import inherited_environment

FILES = DATA / "two_pages"
DOCUMENTS = 5000
BESIDE_CHATS = 2000
"""Documents of the upload that chats run beside."""
PER_HOUR_MIN = 20_000
TTFT_SHARE_MAX = 1.2
P95_QUESTION_MAX_S = 0.050
ROWS = 5
"""Looks at the memory over the whole upload."""
ROUNDS, CHATS, CHAT_TOKENS, CHAT_PAUSE_S, WARM_CHATS = 8, 5, 16, 0.2, 2
"""Rounds of an upload that is stopped and goes on, and chats with each persona in each half of a round."""
LEFT_MIN = 100
"""Documents that must be left for another round."""
MOVING = ("embedding", "indexing")
QUESTIONS, K = 200, 10
LOOK_S = 0.25
WAIT_MAX_S = 3600.0
_numbers = itertools.count(1)


class Look(msgspec.Struct, frozen=True):
    """The product at a moment of an upload."""

    at: float
    indexed: int
    usage: dict[str, Usage]


class Talks(msgspec.Struct, frozen=True):
    """Times to the first text, a list for each persona."""

    alone: list[list[float]]
    busy: list[list[float]]
    coming: list[list[float]]

    @staticmethod
    def add(kept: list[list[float]], more: list[list[float]]) -> None:
        """Put those of a round with the others."""
        for times, new in zip(kept, more, strict=True):
            times.extend(new)


class Library:
    """The product, what was put into it, and how far that is. Counted in the records: asking the API would cost it."""

    def __init__(self, product: Product) -> None:
        self.product = product
        self.database = Database(product.processes.settings.sqlalchemy_url)

    def count(self, *states: str) -> int:
        """Documents in these states, or all."""
        query = sa.select(sa.func.count()).select_from(documents)
        if states:
            query = query.where(documents.c.state.in_(states))
        with self.database.read() as connection:
            return connection.execute(query).scalar_one()

    def windows(self) -> int:
        """Vectors in all."""
        with self.database.read() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(windows)).scalar_one()

    def change(self, what: str) -> None:
        """Pause or resume the newest upload."""
        query = sa.select(uploads.c.id).order_by(uploads.c.created_at.desc()).limit(1)
        with self.database.read() as connection:
            upload_id = connection.execute(query).scalar_one()
        url = f"{self.product.url}/api/v1/uploads/{upload_id}/{what}"
        httpx.post(url, trust_env=False, timeout=30).raise_for_status()

    def wait_for(self, condition: Callable[[], bool], client: subprocess.Popen[bytes]) -> None:
        """Until it holds. Raises RuntimeError where the upload ended first, or never."""
        deadline = time.monotonic() + WAIT_MAX_S
        while not condition():
            if time.monotonic() > deadline or client.poll() is not None:
                raise RuntimeError("the upload is not as it should be; see the logs in data/bench/logs")
            time.sleep(LOOK_S)

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
            _tell_chats(report, _chats(library, second, [other, reader]))
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


def _chats(library: Library, folder: Path, personas: Sequence[str]) -> Talks:
    """An upload, stopped and let go on in turn: other work on the machine is then the same for both."""
    url = library.product.url
    asyncio.run(_talk(url, personas, WARM_CHATS))
    talks = Talks(alone=_each(personas), busy=_each(personas), coming=_each(personas))
    count = sum(1 for _ in folder.iterdir())
    goal = library.count() + count
    # a persona of its own: what the others know, and so their prompts, stay as they were
    with library.ingesting(folder, make_persona(url, SYSTEM)) as client:
        library.wait_for(lambda: library.count("parsing", *MOVING) > 0, client)

        def comes() -> bool:
            return library.count() < goal or library.count("receiving") > 0

        talks.add(talks.coming, asyncio.run(_talk(url, personas, CHATS, comes)))
        library.wait_for(lambda: not comes(), client)
        for _ in range(ROUNDS):
            if library.count("queued") < LEFT_MIN:
                break  # fewer rounds: it would end in the midst of this one
            library.change("pause")
            library.product.wait_quiet()
            talks.add(talks.alone, asyncio.run(_talk(url, personas, CHATS)))
            library.change("resume")
            library.wait_for(lambda: library.count(*MOVING) > 0, client)
            talks.add(talks.busy, asyncio.run(_talk(url, personas, CHATS, lambda: library.count(*MOVING) > 0)))
    return talks


async def _talk(
    url: str, personas: Sequence[str], count: int, goes_on: Callable[[], bool] = lambda: True
) -> list[list[float]]:
    """So many questions to each persona in turn, while it goes on; their times to the first text."""
    found = _each(personas)
    for _ in range(count):
        for times, persona_id in zip(found, personas, strict=True):
            # a session each: a conversation that grows would grow its prompt
            async with conversations(url, persona_id, 1) as (talker,):
                turn: Turn = await talker.say(_question(), CHAT_TOKENS)
            assert turn.end == "done", turn
            if not goes_on():
                return found
            times.append(turn.ttft_s)
            await asyncio.sleep(CHAT_PAUSE_S)
    return found


def _each(personas: Sequence[str]) -> list[list[float]]:
    return [[] for _ in personas]


def _question() -> str:
    number = next(_numbers)
    return f"Letter {number}. Tell me at length about {TOPICS[number % len(TOPICS)]}."


def _tell_chats(report: Report, talks: Talks) -> None:
    rows = []
    names = ("without documents", "that asks its documents")
    for name, alone, busy, coming in zip(names, talks.alone, talks.busy, talks.coming, strict=True):
        share = median(busy) / median(alone)
        cells = [median(alone), median(busy), median(coming), percentile(alone, 0.95), percentile(busy, 0.95)]
        rows.append([name, *map(ms, cells), f"{len(alone)}, {len(busy)}, {len(coming)}"])
        report.goals.append(
            Goal(
                f"an upload adds at most 20 % to the median TTFT of a persona {name}",
                f"{share - 1:+.0%}",
                share <= TTFT_SHARE_MAX,
            )
        )
    head = ["TTFT of a persona", "upload paused, p50", "running, p50", "files coming in, p50"]
    report.tables.append(Table([*head, "paused, p95", "running, p95", "chats"], rows))
    report.samples["chats_s"] = talks
