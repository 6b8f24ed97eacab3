"""The Makefile keeps its promises without being run: same files, same commands as everywhere else."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[3]


def plan(*arguments: str) -> str:
    """What make would run, whatever a `make` around these tests was told."""
    alone = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKEOVERRIDES", "ARGS")}
    answer = subprocess.run(["make", "-n", *arguments], cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    return answer.stdout


def test_run_starts_up_with_the_model() -> None:
    """`make run MODEL=x` hands the model to `coral-reef up`."""
    assert '-m cli up --model "some.gguf"' in plan("run", "MODEL=some.gguf")
    assert re.search(r"-m cli up\s*$", plan("run"), re.MULTILINE)


def test_ci_runs_make_test_which_runs_every_check() -> None:
    """The one command of CI covers the linters, the types, the layers and the tests."""
    script = ROOT / ".ci/run"
    assert os.access(script, os.X_OK)
    assert "exec make test" in script.read_text()
    steps = plan("test")
    for step in ("deploy/test-packages.sh", "ruff check .", "-m mypy", "lint-imports"):
        assert step in steps
    sets = " ".join(re.findall(r"-m pytest (.+)", steps)).split()
    folders = {f"tests/{one.relative_to(ROOT / 'tests').parts[0]}" for one in (ROOT / "tests").glob("*/**/test_*.py")}
    assert sorted(sets) == sorted(folders | {"libs"}), "every folder of tests is in one set"
    assert "-m pytest tests/unit/x" in plan("test", "ARGS=tests/unit/x")


def test_help_lists_the_targets() -> None:
    """A newcomer finds the targets without reading the Makefile."""
    answer = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True)
    for target in ("run", "test", "lint", "lock", "bench", "bench-devices", "soak", "clean"):
        assert f"make {target} " in answer.stdout


def test_every_requirement_is_locked() -> None:
    """requirements.txt pins exact versions of all that requirements.in asks for, and never the wrong pycoral."""
    for name in ("requirements", "requirements-dev"):
        locked = requirements(ROOT / f"{name}.txt")
        assert all(str(req.specifier).startswith("==") for req in locked.values())
        assert set(requirements(ROOT / f"{name}.in")) <= set(locked)
        assert own_libraries(ROOT / f"{name}.in") <= own_libraries(ROOT / f"{name}.txt")
        assert "pycoral" not in locked


def requirements(path: Path) -> dict[str, Requirement]:
    """The requirements of a file by their normal names."""
    lines = (line.partition(" #")[0].strip() for line in path.read_text().splitlines())
    found = [Requirement(line) for line in lines if line and not line.startswith(("#", "-r", "-e"))]
    return {re.sub(r"[-_.]+", "-", req.name).lower(): req for req in found}


def own_libraries(path: Path) -> set[str]:
    """The folders of this repository that a requirements file installs: they have no version to pin."""
    return {line for line in path.read_text().splitlines() if line.startswith("-e ./libs/")}
