"""Memory of every process at rest, cost of the imports, and the time from `coral-reef up` until it serves."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence

import httpx

from bench.figures import mb, median, ms
from bench.machine import ROOT
from bench.product import Usage, fresh_settings, queues, running, the_model
from bench.report import Goal, Report, Table
from bench.simulated import STEADY
from reef.settings import inherited_environment

REPEATS = 5
STARTS = 3
READY_MAX_S = 120.0
POLL_S = 0.01
WEB_RSS_MAX = 150e6
HEAVY = ("numpy", "openvino", "openvino_genai", "xllamacpp", "onnxruntime")
MODULES = {
    "an empty interpreter": "pass",
    "web: app.factory": "import app.factory",
    "worker: workers.main": "import workers.main",
    "worker with celery's consumer": "import workers.main, tasks.chat, celery.apps.worker, celery.worker.consumer",
    "sweeper: workers.sweeper": "import workers.sweeper",
    "command line: cli.main": "import cli.main",
}
_MEASURED = """
import time; began = time.perf_counter()
{code}
took = time.perf_counter() - began
import sys
rss = next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmRSS'))
print(took, rss * 1024, *[name for name in {heavy!r} if name in sys.modules])
"""


def run(report: Report) -> None:
    """Measure."""
    the_model()
    heavy = _imports(report)
    _starts(report)
    web = _rest(report)
    report.goals += [
        Goal("the front door loads no engine and no numpy", ", ".join(heavy) or "none", not heavy),
        Goal("the web process stays under 150 MB", mb(web), web < WEB_RSS_MAX),
    ]


def _imports(report: Report) -> list[str]:
    rows, heavy = [], []
    for name, code in MODULES.items():
        program = _MEASURED.format(code=code, heavy=HEAVY)
        outputs = []
        for _ in range(REPEATS):
            done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, check=True, capture_output=True, text=True)
            outputs.append(done.stdout.split())
        if "app.factory" in code:
            heavy = outputs[0][2:]
        rows.append([name, ms(median([float(out[0]) for out in outputs])), mb(float(outputs[0][1]))])
    report.tables.append(Table(["import", "time", "memory (RSS)"], rows))
    return heavy


def _starts(report: Report) -> None:
    rows = []
    for name, yaml in (
        ("real model, prepared before", queues()),
        ("simulated device", queues(devices="[simulated]", engine="simulated", model=STEADY)),
    ):
        found = [_up(yaml) for _ in range(STARTS)]
        page, ready = median([one[0] for one in found]), median([one[1] for one in found])
        rows.append([name, ms(page), ms(ready)])
        report.samples[name] = found
    report.tables.append(Table(["`coral-reef up`", "page answers", "ready to chat"], rows))


def _up(yaml: str) -> tuple[float, float]:
    """Seconds until /healthz and until /readyz answer 200."""
    settings = fresh_settings(yaml)
    url = f"http://127.0.0.1:{settings.port}"
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "cli", "up"],
        cwd=ROOT,
        env=inherited_environment() | settings.environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        with httpx.Client(trust_env=False, timeout=5) as client:
            page = _answers(client, f"{url}/healthz", process) - began
            return page, _answers(client, f"{url}/readyz", process) - began
    finally:
        process.send_signal(signal.SIGINT)
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _answers(client: httpx.Client, url: str, process: subprocess.Popen[bytes]) -> float:
    deadline = time.perf_counter() + READY_MAX_S
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"coral-reef up ended with {process.returncode}")
        try:
            if client.get(url).status_code == 200:
                return time.perf_counter()
        except httpx.TransportError:
            pass
        time.sleep(POLL_S)
    raise RuntimeError(f"{url} did not answer 200 within {READY_MAX_S:.0f} s")


def _rest(report: Report) -> float:
    """Memory of the running product before its first chat; bytes of the web process."""
    found: list[tuple[str, dict[str, Usage]]] = []
    for name, yaml in (
        ("real model", queues()),
        ("simulated device", queues(devices="[simulated]", engine="simulated", model=STEADY)),
    ):
        with running(yaml) as product:
            product.wait_quiet()
            found.append((name, product.usage()))
    rows = [[part, *_cells(part, found)] for part in ("broker", "web", "worker", "sweeper")]
    report.tables.append(Table(["memory (RSS) at rest", *(name for name, _ in found)], rows))
    report.samples["rest"] = dict(found)
    return max(usages["web"].rss_bytes for _, usages in found)


def _cells(part: str, found: Sequence[tuple[str, dict[str, Usage]]]) -> list[str]:
    cells = []
    for _, usages in found:
        names = [name for name in usages if name == part or (part == "worker" and name.startswith("chat-"))]
        cells.append(mb(sum(usages[name].rss_bytes for name in names)))
    return cells
