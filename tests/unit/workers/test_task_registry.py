"""Which tasks a worker knows."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from reef.contracts.jobs import JOBS

ROOT = Path(__file__).parents[3]
PROGRAM = """
import sys
from reef.settings import Settings
from tasks import registry
from tasks.celery_app import make_celery
app = make_celery(Settings(redis_url="redis://127.0.0.1:1/0"))
registry.register(app, sys.argv[1])
print(*sorted(name for name in app.tasks if name.startswith("coralreef.")))
"""


@pytest.mark.parametrize("pool", [*sorted({job.POOL for job in JOBS}), "media"])
def test_a_worker_knows_the_tasks_of_its_pool_and_no_others(pool: str) -> None:
    """Every contract of the pool has its task; pools that later versions fill have none."""
    # a process of its own, as a worker is: celery shares tasks between the applications of one process
    found = subprocess.run(
        [sys.executable, "-c", PROGRAM, pool], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    assert set(found) == {job.TASK for job in JOBS if pool == job.POOL}
