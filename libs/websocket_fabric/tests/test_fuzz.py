"""Bytes that nobody would send: a short run of the fuzzer at each reader, and a long one."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed (it has wheels for x86-64 Linux)"
)
SCRIPT = Path(__file__).with_name("fuzz_protocol.py")


def fuzz(target: str, folder: Path, *options: str, timeout_s: float) -> str:
    """What the fuzzer says; it fails where an input did."""
    corpus = folder / "corpus"
    corpus.mkdir()
    # it is told where the code is as this process was, for it may not be installed
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    done = subprocess.run(
        [sys.executable, str(SCRIPT), target, str(corpus), f"-artifact_prefix={folder}/", *options],
        capture_output=True,
        text=True,
        env=environment,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout[-1000:]
    return done.stderr


@pytest.mark.parametrize("target", ["frames", "heads"])
def test_a_short_run_finds_nothing(target: str, tmp_path: Path) -> None:
    """The same inputs each time, two thousand; and they do reach into the code."""
    said = fuzz(target, tmp_path, "-runs=2000", "-seed=7", "-max_len=700", timeout_s=60)
    assert re.search(r"#2000\s+DONE", said), said
    covered = [int(found) for found in re.findall(r" cov: (\d+) ", said)]
    assert covered[-1] > 150


@pytest.mark.soak
@pytest.mark.timeout(600)
@pytest.mark.parametrize("target", ["frames", "heads"])
def test_a_long_run_finds_nothing(target: str, tmp_path: Path) -> None:
    """Two minutes each, other inputs every time."""
    said = fuzz(target, tmp_path, "-max_total_time=120", "-max_len=2000", timeout_s=400)
    assert "DONE" in said
