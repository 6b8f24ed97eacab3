"""The embedding library beside sentence-transformers: its own bench, run as its documents say, and held to the goals.

sentence-transformers needs torch, which nothing of ours does: it lives in build/peer (`make bench-knowledge` makes it).
"""

from __future__ import annotations

import subprocess
import sys

from bench.machine import ROOT
from bench.product import DATA
from bench.report import Goal, Report, Table

PEER_PYTHON = ROOT / "build" / "peer" / "bin" / "python"
SCRIPT = ROOT / "libs" / "embeddings_engine" / "bench" / "embeddings_bench.py"
OURS, PEER = "this library", "sentence-transformers"
TIMES_MIN = 2.0
SINGLE_MAX_MS = 10.0


def run(report: Report) -> None:
    """Measure."""
    if not PEER_PYTHON.exists():
        raise SystemExit(f"{PEER_PYTHON} is missing: `make bench-knowledge` installs sentence-transformers there.")
    models = DATA / "models" / "embeddings"
    models.mkdir(parents=True, exist_ok=True)
    argv = [sys.executable, str(SCRIPT), "engines", "--peer-python", str(PEER_PYTHON), "--cache-dir", str(models)]
    printed = subprocess.run(argv, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True).stdout
    head, rows = read_table(printed)
    report.tables.append(Table(head, rows))
    report.notes += [line for line in printed.splitlines() if line and not line.startswith("|")]
    ours, peer = (next(row for row in rows if row[0].startswith(name)) for name in (OURS, PEER))
    shares = [mine / other for mine, other in zip(_rates(ours), _rates(peer), strict=True)]
    report.goals += [
        Goal(
            f"at least {TIMES_MIN:.0f}× the embeddings/s of sentence-transformers at batch 1, 32, 64 and for passages",
            ", ".join(f"{share:.1f}×" for share in shares),
            min(shares) >= TIMES_MIN,
        ),
        Goal(f"one sentence in under {SINGLE_MAX_MS:.0f} ms", f"{ours[1]} ms", float(ours[1]) < SINGLE_MAX_MS),
    ]


def read_table(printed: str) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the first Markdown table of a text."""
    lines = [line for line in printed.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return cells[0], cells[2:]


def _rates(row: list[str]) -> list[float]:
    """Texts per second: short ones at batch 1, 32 and 64, then passages."""
    return [float(rate) for rate in (*row[2].split("/"), row[3])]
