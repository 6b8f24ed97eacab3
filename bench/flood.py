"""Two hundred chats at once: everybody is answered or refused with a time to come back, and the page still responds."""

from __future__ import annotations

import asyncio
import http.client
import subprocess
import sys
import time
from urllib.parse import urlsplit

import msgspec

from bench.client import Turn, all_say, conversations, make_persona
from bench.figures import mb, median, ms, percentile
from bench.machine import ROOT
from bench.product import Product, Usage, queues, running, the_model
from bench.report import Goal, Report, Table
from bench.simulated import QUICK

CHATS = 200
FLOODS = 3
TOKENS = 16
PROBE_EVERY_S = 0.02
WEB_RSS_MAX = 150e6
FLAT_GROWTH_MAX = 0.10
"""Growth of the web process from the first flood's end to the last one's that still counts as flat."""


class Flood(msgspec.Struct, kw_only=True):
    """One storm of chats."""

    answered: int
    refused: int
    refused_without_time: int
    lost: int
    took_s: float
    ttft_s: list[float]
    healthz_s: list[float]
    before: dict[str, Usage]
    after: dict[str, Usage]
    peak: dict[str, int]


def run(report: Report) -> None:
    """Measure."""
    the_model()
    simulated = queues(devices="[simulated]", engine="simulated", model=QUICK)
    small = queues(devices="[simulated]", engine="simulated", model=QUICK, waiting_max=64)
    floods: dict[str, list[Flood]] = {}
    for name, yaml, times in (
        ("simulated device", simulated, FLOODS),
        ("simulated, room for 64", small, 1),
        ("real model", queues(), 1),
    ):
        with running(yaml) as product:
            asyncio.run(_warm(product))
            floods[name] = [asyncio.run(_flood(product)) for _ in range(times)]
    _tell(report, floods)


async def _warm(product: Product) -> None:
    persona = make_persona(product.url, "You answer in one short sentence.")
    async with conversations(product.url, persona, 8) as talkers:
        await all_say(talkers, [f"Hello {n}." for n in range(8)], TOKENS)


async def _flood(product: Product) -> Flood:
    persona = make_persona(product.url, "You answer in one short sentence.")
    async with conversations(product.url, persona, CHATS) as talkers:
        before = product.usage()
        peak = {name: usage.rss_bytes for name, usage in before.items()}
        with _Prober(product.url) as prober:
            watch = asyncio.create_task(_watch(product, peak))
            began = time.perf_counter()
            turns = await all_say(talkers, [f"Greeting {n}: who are you?" for n in range(CHATS)], TOKENS)
            took_s = time.perf_counter() - began
            watch.cancel()
            healthz_s = prober.stop()
        after = product.usage()
    return Flood(
        answered=sum(turn.end == "done" for turn in turns),
        refused=sum(_refused(turn) for turn in turns),
        refused_without_time=sum(_refused(turn) and turn.retry_after_s is None for turn in turns),
        lost=sum(turn.end != "done" and not _refused(turn) for turn in turns),
        took_s=took_s,
        ttft_s=[turn.ttft_s for turn in turns if turn.first],
        healthz_s=healthz_s,
        before=before,
        after=after,
        peak=peak,
    )


def _refused(turn: Turn) -> bool:
    return turn.end == "error" and turn.code == "pool_full"


async def _watch(product: Product, peak: dict[str, int]) -> None:
    while True:
        for name, usage in (await asyncio.to_thread(product.usage)).items():
            peak[name] = max(peak.get(name, 0), usage.rss_bytes)
        await asyncio.sleep(0.2)


class _Prober:
    """GET /healthz again and again from another process, so that our own work does not count as the page's."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.flood", url], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def __enter__(self) -> _Prober:
        assert self._process.stdout is not None
        self._process.stdout.readline()
        return self

    def stop(self) -> list[float]:
        """The latencies."""
        out, _ = self._process.communicate(b"\n", timeout=30)
        return msgspec.json.decode(out, type=list[float])

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


def _probe(url: str) -> None:
    import select

    address = urlsplit(url)
    connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
    times: list[float] = []
    print("probing", flush=True)
    while not select.select([sys.stdin], [], [], PROBE_EVERY_S)[0]:
        began = time.perf_counter()
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        answer.read()
        times.append(time.perf_counter() - began)
        if answer.status != 200:
            raise SystemExit(f"/healthz answered {answer.status}")
    sys.stdout.buffer.write(msgspec.json.encode(times))


def _tell(report: Report, floods: dict[str, list[Flood]]) -> None:
    rows = []
    for name, storms in floods.items():
        for number, storm in enumerate(storms, start=1):
            rows.append(
                [
                    f"{name}, {number}" if len(storms) > 1 else name,
                    str(storm.answered),
                    str(storm.refused),
                    str(storm.lost),
                    f"{storm.took_s:.1f} s",
                    ms(median(storm.ttft_s)),
                    ms(percentile(storm.healthz_s, 0.5)),
                    ms(percentile(storm.healthz_s, 0.95)),
                ]
            )
    head = [f"{CHATS} chats", "answered", "429", "lost", "took", "median TTFT", "/healthz p50", "/healthz p95"]
    report.tables.append(Table(head, rows))
    rows = []
    for name, storms in floods.items():
        for part in storms[0].before:
            figures = [mb(storms[0].before[part].rss_bytes), *(mb(storm.after[part].rss_bytes) for storm in storms)]
            peak = max(storm.peak.get(part, 0) for storm in storms)
            rows.append([f"{name}: {part}", " → ".join(figures), mb(peak)])
    report.tables.append(Table(["memory (RSS)", "before → after each", "peak"], rows))
    every = [storm for storms in floods.values() for storm in storms]
    slowest = max(percentile(storm.healthz_s, 0.95) for storm in every)
    web = max(storm.peak["web"] for storm in every)
    repeated = floods["simulated device"]
    growth = repeated[-1].after["web"].rss_bytes / repeated[0].after["web"].rss_bytes - 1
    report.goals += [
        Goal(
            "every chat is answered, or refused with a time to come back; none is lost",
            f"{sum(storm.answered for storm in every)} answered, {sum(storm.refused for storm in every)} refused, "
            f"{sum(storm.lost for storm in every)} lost",
            not any(storm.lost or storm.refused_without_time for storm in every),
        ),
        Goal("p95 of /healthz under 100 ms in the flood", ms(slowest), slowest < 0.1),
        Goal("the web process stays under 150 MB", mb(web), web < WEB_RSS_MAX),
        Goal("its memory is flat from flood to flood", f"{growth:+.1%}", growth < FLAT_GROWTH_MAX),
    ]
    report.samples = dict(floods)


if __name__ == "__main__":
    _probe(sys.argv[1])
