"""What a worker process does before anything else."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from reef.priority import NICE_MAX

PIN = """
from pathlib import Path
from reef.topology import Device, Limits, Pool
from reef.priority import AUTOGROUP
from workers.main import pin
import os
pool = Pool(name="index", queue="index", devices=(), engine="auto", model="", streams=1, context_tokens=256, nice=7,
            affinity=True, limits=Limits())
os.setsid()
pin(pool, Device("cpu:0", "cpu", cores=(min(os.sched_getaffinity(0)),)))
print(os.nice(0), len(os.sched_getaffinity(0)), AUTOGROUP.read_text() if AUTOGROUP.exists() else "nice 7")
"""
LIGHT = """
import sys, workers.main, workers.engines.select
print(sorted({"sqlalchemy", "redis", "celery"} & {*sys.modules}))
"""
ROOT = Path(__file__).parents[3]


def _run(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_a_pool_of_low_priority_is_low_beside_other_sessions_too() -> None:
    """The kernel may weigh sessions and not processes; each worker leads a session of its own."""
    nice, cores, group = _run(PIN).split(maxsplit=2)
    assert (nice, cores) == (str(min(os.nice(0) + 7, NICE_MAX)), "1")
    assert group.endswith("nice 7")


def test_the_engine_does_not_wait_for_the_database_and_the_queue() -> None:
    """A worker that died is back sooner when the model's loading begins before the large libraries are imported."""
    assert _run(LIGHT) == "[]"
