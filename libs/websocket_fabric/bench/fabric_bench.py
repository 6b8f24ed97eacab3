"""This library beside its peers, in one run: prints Markdown with the machine, the versions and the goals.

python libs/websocket_fabric/bench/fabric_bench.py [--rounds N] [--seconds S] [--connections N] [--servers A,B]
                                                   [--parts echo,idle,fan-out] [--soak SECONDS] [--json FILE]

`make bench-websocket` runs it in an environment of its own that has the peers in the versions of peers.txt. Servers
are on the first core and the client is on the second, where there are two. In each round every server is measured
once and the order is turned, so that all come first equally often; figures are medians of the rounds, ratios the
medians of the rounds' ratios. One wrong or missing answer ends the run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

from bench_table import Goal, median, microseconds, slope, table, thousands, times
from load_client import BUILD, free_port, measure, pinned, telling
from servers import SERVERS

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = ROOT / "libs" / "websocket_fabric" / "src"
PACKAGES = (
    "picows",
    "websockets",
    "aiohttp",
    "uvicorn",
    "flask",
    "flask-sock",
    "simple-websocket",
    "wsproto",
    "gunicorn",
    "gevent",
    "uvloop",
    "msgspec",
)
OURS, JSON = "fabric-asyncio", "fabric-asyncio, JSON"
SPREADING = ("fabric-asyncio", "picows", "websockets", "aiohttp", "flask-sock")
PARTS = ("echo", "idle", "fan-out")
MESSAGE_BYTES = 64
WINDOW, WINDOW_OF_MANY = 256, 16
MANY, PACED, PACED_RATE = 100, 50, 20
LISTENERS, SPREAD_RATE = 1000, 20
WARM_S = 0.3
START_S = 20.0
REST_S = 5.0
SOAK_CONNECTIONS, SOAK_RATE, SOAK_SAMPLES = 100, 20, 120
SETTLED_SHARE = 0.2
"""Of a soak: what a process takes at first is not its growth."""

Samples = dict[str, dict[str, list[float]]]
"""By server and by figure, one value a round."""


class Server(NamedTuple):
    """A running server."""

    name: str
    port: int
    process: subprocess.Popen[bytes]

    def rss_kb(self) -> float:
        """Memory of its processes together."""
        return sum(_rss_kb(pid) for pid in _family(self.process.pid))

    def files(self) -> int:
        """Open files of its processes together."""
        return sum(len(os.listdir(f"/proc/{pid}/fd")) for pid in _family(self.process.pid))


@contextmanager
def serving(name: str, what: str = "echo") -> Iterator[Server]:
    """A server in a process of its own, pinned to its core."""
    port, path = free_port(), [str(LIBRARY), os.environ.get("PYTHONPATH", "")]
    BUILD.mkdir(parents=True, exist_ok=True)
    log = BUILD / f"{name}-{what}.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("servers.py")), name, str(port), what],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, path))},
            stdout=file,
            stderr=file,
            preexec_fn=pinned(SERVER_CORE),  # noqa: PLW1509 - no threads here
        )
    try:
        deadline = time.monotonic() + START_S
        while not _listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"{name} does not serve; its last words are in {log}:\n{log.read_text()[-2000:]}")
            time.sleep(0.05)
        yield Server(name, port, process)
    finally:
        process.terminate()
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _cores() -> tuple[int | None, int | None]:
    """The server's and the client's; none where there is only one."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


SERVER_CORE, CLIENT_CORE = _cores()


def _listens(port: int) -> bool:
    local = f"0100007F:{port:04X}"
    with Path("/proc/net/tcp").open(encoding="ascii") as file:
        return any(line.split()[1] == local and line.split()[3] == "0A" for line in file)


def _family(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in _family(int(child)))]


def _rss_kb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines():
        if line.startswith("Rss:"):
            return float(line.split()[1])
    return 0.0


# --- echo


def echo(names: Sequence[str], rounds: int, seconds: float) -> Samples:
    """Latency of one connection and of many, messages a second of one and of many, in alternating rounds."""
    samples: Samples = {}
    with ExitStack() as stack:
        running = [stack.enter_context(serving(name)) for name in names]
        answering = stack.enter_context(serving(OURS, "json")) if OURS in names else None
        for number in range(rounds):
            for server in running[number % len(running) :] + running[: number % len(running)]:
                _progress(f"echo, round {number + 1} of {rounds}: {server.name}")
                for figure, value in _echo_round(server.port, seconds).items():
                    samples.setdefault(server.name, {}).setdefault(figure, []).append(value)
            if answering is not None:
                answered = _throughput(answering.port, 1, WINDOW, seconds, json=True)
                samples.setdefault(JSON, {}).setdefault("one_per_s", []).append(answered)
    return samples


def _echo_round(port: int, seconds: float) -> dict[str, float]:
    common: dict[str, Any] = {"core": CLIENT_CORE, "size": MESSAGE_BYTES, "seconds": seconds + WARM_S, "warm": WARM_S}
    found = {}
    alone = measure("latency", port, **common)
    paced = measure("paced", port, connections=PACED, rate=PACED_RATE, **common)
    for share in ("p50_us", "p95_us", "p99_us"):
        found[share], found[f"paced_{share}"] = alone[share], paced[share]
    found["one_per_s"] = _throughput(port, 1, WINDOW, seconds)
    found["many_per_s"] = _throughput(port, MANY, WINDOW_OF_MANY, seconds)
    return found


def _throughput(port: int, connections: int, window: int, seconds: float, **more: Any) -> float:
    found = measure(
        "throughput",
        port,
        core=CLIENT_CORE,
        connections=connections,
        window=window,
        size=MESSAGE_BYTES,
        seconds=seconds + WARM_S,
        warm=WARM_S,
        **more,
    )
    return float(found["per_s"])


def tell_echo(samples: Samples) -> tuple[list[str], list[Goal]]:
    """The table and what it says about the goals."""
    head = [f"echo of {MESSAGE_BYTES} bytes", "round trip p50 / p95 / p99, µs"]
    head += [f"{PACED} × {PACED_RATE}/s p50 / p95 / p99, µs", "messages/s, 1 connection", f"{MANY} connections"]
    head += [f"{OURS} ÷ it: 1, {MANY}"]
    ours, rows, shares = samples.get(OURS, {}), [], {}
    for name, found in samples.items():
        figures = ("p50_us", "p95_us", "p99_us")
        plain = " / ".join(microseconds(median(found.get(share, []))) for share in figures)
        paced = " / ".join(microseconds(median(found.get(f"paced_{share}", []))) for share in figures)
        one, many = found["one_per_s"], found.get("many_per_s", [])
        shares[name] = [times(ours[key], found[key]) for key in ("one_per_s", "many_per_s") if ours and key in found]
        ratios = ", ".join(f"{share:.1f}×" for share in shares[name])
        rows.append([name, plain, paced, thousands(median(one)), thousands(median(many)), ratios])
    goals = [
        Goal(
            f"at least {least}× the messages/s of {peer}, on one connection and over {MANY}",
            ", ".join(f"{share:.1f}×" for share in shares[peer]),
            min(shares[peer]) >= least,
        )
        for peer, least in (("flask-sock", 5), ("picows", 2))
        if peer in shares and ours
    ]
    if JSON in samples:
        rate = median(samples[JSON]["one_per_s"])
        goals.append(Goal("at least 100K JSON messages/s on one connection", thousands(rate), rate >= 100_000))
    return [table(head, rows)], goals


# --- many idle connections


def idle(names: Sequence[str], connections: int, seconds: float) -> Samples:
    """Memory of a connection that is silent and of one that has spoken, and how quick one is beside all others."""
    samples: Samples = {}
    for name in names:
        _progress(f"{connections:,} connections: {name}")
        with serving(name) as server:
            measure("paced", server.port, connections=PACED, seconds=0.5, core=CLIENT_CORE)
            before = server.rss_kb()
            with telling("hold", server.port, core=CLIENT_CORE, connections=connections, warm=WARM_S) as load:
                silent = (server.rss_kb() - before) / connections
                load.tell(["sweep"])
                alive = load.sound()["alive"]
                spoken = (server.rss_kb() - before) / connections
                load.tell([f"latency {seconds + WARM_S}"])
                found = load.sound()
            samples[name] = {
                "silent_kb": [silent],
                "spoken_kb": [spoken],
                "alive": [alive],
                "open_s": [load.opened["seconds"]],
                **{share: [found[share]] for share in ("p50_us", "p95_us", "p99_us")},
            }
    return samples


def tell_idle(samples: Samples, connections: int) -> tuple[list[str], list[Goal]]:
    """The table and what it says about the goals."""
    head = [f"{connections:,} connections", "opened in", "alive", "KB each, silent", "KB each, after one message"]
    head += ["round trip beside them p50 / p95 / p99, µs"]
    rows = []
    for name, found in samples.items():
        figures = {key: values[0] for key, values in found.items()}
        spread = " / ".join(microseconds(figures[share]) for share in ("p50_us", "p95_us", "p99_us"))
        kept = [f"{figures['open_s']:.1f} s", f"{figures['alive']:,.0f}"]
        rows.append([name, *kept, f"{figures['silent_kb']:.1f}", f"{figures['spoken_kb']:.1f}", spread])
    ours = samples.get(OURS)
    if ours is None:
        return [table(head, rows)], []
    p95_us, kilobytes = ours["p95_us"][0], ours["silent_kb"][0]
    goals = [
        Goal(f"p95 under 1 ms beside {connections:,} idle connections", f"{p95_us:.0f} µs", p95_us < 1000),
        Goal("at most 3 KB for a bare connection", f"{kilobytes:.1f} KB", kilobytes <= 3),
    ]
    return [table(head, rows)], goals


# --- one speaks, a thousand hear


def fan_out(names: Sequence[str], rounds: int, seconds: float) -> Samples:
    """What anybody says goes to everybody: at a steady pace, and again as soon as all have heard."""
    samples: Samples = {}
    options: dict[str, Any] = {"core": CLIENT_CORE, "connections": LISTENERS + 1, "warm": WARM_S}
    options["seconds"] = seconds + WARM_S
    with ExitStack() as stack:
        running = [stack.enter_context(serving(name, "fan-out")) for name in names]
        for number in range(rounds):
            for server in running[number % len(running) :] + running[: number % len(running)]:
                _progress(f"fan-out, round {number + 1} of {rounds}: {server.name}")
                figures = samples.setdefault(server.name, {})
                paced = measure("fan-out", server.port, rate=SPREAD_RATE, **options)
                flat_out = measure("fan-out", server.port, rate=0, **options)
                figures.setdefault("per_s", []).append(flat_out["per_s"])
                for share in ("p50_us", "p95_us"):
                    figures.setdefault(share, []).append(paced[share])
    return samples


def tell_fan_out(samples: Samples) -> list[str]:
    """The table."""
    head = [f"1 → {LISTENERS:,}", f"{SPREAD_RATE} a second: said → heard p50 / p95, µs", "messages/s, flat out"]
    rows = []
    for name, found in samples.items():
        spread = " / ".join(microseconds(median(found[share])) for share in ("p50_us", "p95_us"))
        rows.append([name, spread, thousands(median(found["per_s"]))])
    return [table(head, rows)]


# --- minutes


def soak(seconds: float) -> tuple[list[str], list[Goal]]:
    """Echoes on connections that come and go, closed or cut off: nothing is lost, nothing grows."""
    memory: list[tuple[float, float]] = []
    with serving(OURS) as server:
        files_before = server.files()
        measure("paced", server.port, connections=SOAK_CONNECTIONS, seconds=1, core=CLIENT_CORE)
        began = time.monotonic()
        options: dict[str, Any] = {"connections": SOAK_CONNECTIONS, "rate": SOAK_RATE, "seconds": seconds}
        with telling("soak", server.port, core=CLIENT_CORE, **options) as load:
            while (passed := time.monotonic() - began) < seconds:
                memory.append((passed, server.rss_kb()))
                time.sleep(min(max(seconds / SOAK_SAMPLES, 0.5), seconds - passed + 0.1))
            found = load.next()
        files = _files_at_rest(server, files_before)
    settled = [point for point in memory if point[0] >= SETTLED_SHARE * seconds]
    growth = slope(settled) * 3600
    head = [f"soak of {seconds:.0f} s", "messages", "lost or wrong", "connections closed, cut"]
    head += ["p50 / p95 / p99, µs", "memory at first → at last", "growth in an hour", "files before → after"]
    spread = " / ".join(microseconds(found[share]) for share in ("p50_us", "p95_us", "p99_us"))
    row = [OURS, f"{found['messages']:,}", str(found["wrong"] + found["broken"]), f"{found['closed']}, {found['cut']}"]
    row += [spread, f"{memory[0][1] / 1024:.1f} → {memory[-1][1] / 1024:.1f} MB", f"{growth / 1024:+.2f} MB"]
    row += [f"{files_before} → {files}"]
    lost = found["wrong"] + found["broken"]
    reconnects = found["closed"] + found["cut"]
    goals = [
        Goal("nothing lost over random reconnects", f"{lost} of {found['messages']:,}, {reconnects} times", not lost),
        Goal("no file stays open", f"{files_before} → {files}", files <= files_before),
    ]
    return [table(head, [row])], goals


def _files_at_rest(server: Server, files_max: int) -> int:
    """Open files once the last clients are gone: no more than that, or what is still open after REST_S."""
    deadline = time.monotonic() + REST_S
    while (files := server.files()) > files_max and time.monotonic() < deadline:
        time.sleep(0.1)
    return files


# --- all of it


def machine() -> str:
    """On what it was measured."""
    with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
        chip = next((line.partition(":")[2].strip() for line in file if line.startswith("model name")), "unknown CPU")
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in PACKAGES)
    pins = "" if SERVER_CORE is None else f", server on core {SERVER_CORE}, client on core {CLIENT_CORE}"
    return (
        f"{os.cpu_count()} cores of {chip}, {platform.system()} {platform.release().split('-')[0]}, "
        f"Python {platform.python_version()}{pins}, load {os.getloadavg()[0]:.1f} before; {versions}"
    )


def _progress(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.8, help="of each measurement, besides a warm start")
    parser.add_argument("--connections", type=int, default=10_000, help="that are idle")
    parser.add_argument("--servers", default=",".join(SERVERS), help="of %(default)s")
    parser.add_argument("--parts", default=",".join(PARTS), help="of %(default)s")
    parser.add_argument("--soak", type=float, metavar="SECONDS", help="only this: minutes of echoes and reconnects")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the samples go")
    options = parser.parse_args()
    names = [name for name in options.servers.split(",") if name]
    spreading = [name for name in names if name in SPREADING]
    print(machine(), end="\n\n", flush=True)
    began = time.monotonic()
    tables: list[str] = []
    goals: list[Goal] = []
    kept: dict[str, Samples] = {}
    if options.soak:
        tables, goals = soak(options.soak)
    else:
        for part in options.parts.split(","):
            if part == "echo":
                kept[part] = echo(names, options.rounds, options.seconds)
                told = tell_echo(kept[part])
            elif part == "idle":
                kept[part] = idle(names, options.connections, options.seconds)
                told = tell_idle(kept[part], options.connections)
            else:
                kept[part] = fan_out(spreading, (options.rounds + 1) // 2, options.seconds)
                told = tell_fan_out(kept[part]), []
            tables += told[0]
            goals += told[1]
    print("\n\n".join(tables), "", *(goal.line() for goal in goals), sep="\n", end="\n\n")
    print(f"Took {time.monotonic() - began:.0f} s, load {os.getloadavg()[0]:.1f} after.")
    if options.json:
        options.json.write_text(json.dumps(kept), encoding="utf-8")


if __name__ == "__main__":
    main()
