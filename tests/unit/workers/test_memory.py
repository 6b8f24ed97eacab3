"""Whether a second model fits: what the machine and its cgroups have left, what a model needs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from workers.memory import RESERVE_BYTES, Measured, available_bytes, needed_bytes, why_no_room

GIB = 1 << 30
ROOT = Path(__file__).parents[3]
WITH_A_CHILD = """
import subprocess, sys
from workers.memory import own_bytes
before = own_bytes()
program = "import sys; kept = bytearray(64 << 20); print('ready', flush=True); sys.stdin.read()"
with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
    child.stdout.readline()
    print(own_bytes() - before)
"""


def machine(tmp_path: Path, available_kb: int, cgroup: str) -> tuple[Path, Path]:
    """A /proc and a cgroup tree."""
    proc, groups = tmp_path / "proc", tmp_path / "cgroup"
    (proc / "self").mkdir(parents=True)
    groups.mkdir()
    (proc / "meminfo").write_text(f"MemTotal: 99999999 kB\nMemAvailable:   {available_kb} kB\n")
    (proc / "self" / "cgroup").write_text(cgroup)
    return proc, groups


def group(folder: Path, limit: str, used: int, stat: str, names: tuple[str, str] = ("max", "current")) -> None:
    """One group with a limit."""
    folder.mkdir(parents=True, exist_ok=True)
    prefix = "memory."
    (folder / f"{prefix}{names[0]}").write_text(f"{limit}\n")
    (folder / f"{prefix}{names[1]}").write_text(f"{used}\n")
    (folder / "memory.stat").write_text(stat)


def test_the_machine_alone(tmp_path: Path) -> None:
    """Without a limit it is what the kernel says is available; the real machine says something, too."""
    proc, groups = machine(tmp_path, 2048, "0::/user.slice\n")
    group(groups / "user.slice", "max", 5, "inactive_file 0\n")
    assert available_bytes(proc, groups) == 2048 * 1024
    assert available_bytes() > 0


def test_the_tightest_group_counts_and_files_in_its_cache_do_not(tmp_path: Path) -> None:
    """Version 2: a limit of a parent group binds as well; cached files are given back when memory is asked for."""
    proc, groups = machine(tmp_path, 64 * 1024 * 1024, "0::/a/b\n")
    group(groups / "a" / "b", "max", 0, "inactive_file 0\n")
    group(groups / "a", str(4 * GIB), 3 * GIB, f"anon 1\ninactive_file {GIB}\n")
    assert available_bytes(proc, groups) == 2 * GIB


def test_a_container_and_version_1(tmp_path: Path) -> None:
    """The path in /proc may be the host's; then the group is mounted at the root. Version 1 has other file names."""
    proc, groups = machine(tmp_path, 64 * 1024 * 1024, "9:cpu:/x\n5:memory:/docker/abc\n")
    limits = ("limit_in_bytes", "usage_in_bytes")
    group(groups / "memory", str(GIB), GIB // 2, "total_inactive_file 0\n", limits)
    assert available_bytes(proc, groups) == GIB // 2


@pytest.mark.parametrize(
    ("weights", "like", "least", "most"),
    [
        (0, None, 0, 0),
        (98_000_000, None, 500_000_000, 700_000_000),
        # measured: 400 MB for 98 MB of weights, 2.7 to 3.7 GB for 1.1 GB
        (98_000_000, Measured(98_000_000, 400_000_000), 400_000_000, 400_000_000),
        (1_117_000_000, Measured(98_000_000, 400_000_000), 2_700_000_000, 3_700_000_000),
        (98_000_000, Measured(1_117_000_000, 3_000_000_000), 117_000_000, 600_000_000),
        (98_000_000, Measured(0, 400_000_000), 500_000_000, 700_000_000),
    ],
)
def test_what_a_model_needs(weights: int, like: Measured | None, least: int, most: int) -> None:
    """Told from what the engine that serves was measured to take, else from figures of these engines."""
    assert least <= needed_bytes(weights, like) <= most


def test_the_reserve_stays_free() -> None:
    """What fits only into the reserve does not fit; the sentence has the figures."""
    assert why_no_room(GIB, GIB + RESERVE_BYTES) == ""
    assert "1074 MB" in why_no_room(GIB, GIB + RESERVE_BYTES - 1)
    assert why_no_room(0, 0) == ""


def test_own_memory_counts_children() -> None:
    """A device process belongs to its worker. Asked in a worker of its own: children of other tests may end here."""
    done = subprocess.run([sys.executable, "-c", WITH_A_CHILD], cwd=ROOT, capture_output=True, text=True, check=True)
    assert int(done.stdout) > 50 << 20
