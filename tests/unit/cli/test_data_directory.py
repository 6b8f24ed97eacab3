"""The data directory: one owner at a time, and a record that names processes which can be recognised later."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cli.data_directory import DataDirectory, FlowerLogin
from cli.errors import Problem
from workers import child_process
from workers.process_spec import ProcessState


def state(pid: int, start_ticks: int) -> ProcessState:
    """A record of a process."""
    return ProcessState("web", "running", pid, start_ticks, time.time(), 0, "")


def test_a_second_owner_is_told_about_the_first(tmp_path: Path) -> None:
    """The message has the URL, the process and the ways out."""
    first, second = DataDirectory(tmp_path), DataDirectory(tmp_path)
    first.acquire()
    first.write_run_file("http://127.0.0.1:8080", time.time() - 120, [])
    with pytest.raises(Problem) as caught:
        second.acquire()
    assert f"already runs in {tmp_path}: http://127.0.0.1:8080 (process {os.getpid()}, since 2 min)" in str(
        caught.value
    )
    assert f"kill {os.getpid()}" in str(caught.value)
    first.release()
    second.acquire()
    second.release()


def test_a_directory_that_cannot_be_made_is_a_problem_with_advice(tmp_path: Path) -> None:
    """A path below a file stands for every directory that cannot be written."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Problem, match=r"(?s)cannot be written: Not a directory.*--data-dir DIR or REEF_DATA_DIR"):
        DataDirectory(tmp_path / "file" / "data").acquire()


def test_processes_of_a_killed_owner_are_ended(tmp_path: Path) -> None:
    """The next owner ends what the record names, and only if it is still the same process."""
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    try:
        real = child_process.identify(sleeper.pid)
        assert real is not None
        stranger = child_process.identify(os.getpid())
        assert stranger is not None
        owner = DataDirectory(tmp_path)
        owner.acquire()
        owner.write_run_file(
            "", time.time(), [state(real.pid, real.start_ticks), state(stranger.pid, stranger.start_ticks - 1)]
        )
        # as after kill -9: the lock is free, the record is still there
        assert owner._lock is not None
        os.close(owner._lock)
        assert DataDirectory(tmp_path).acquire() == [sleeper.pid]
        assert sleeper.wait(5) < 0
    finally:
        if sleeper.poll() is None:
            sleeper.kill()
            sleeper.wait()


def test_flower_login_is_private_and_goes_with_the_owner(tmp_path: Path) -> None:
    """Only this user reads the password, and only while Flower runs."""
    owner = DataDirectory(tmp_path)
    owner.acquire()
    owner.write_flower(FlowerLogin("http://127.0.0.1:5555", "reef", "secret"))
    assert stat.S_IMODE((tmp_path / "run/flower.json").stat().st_mode) == 0o600
    assert owner.read_flower() == FlowerLogin("http://127.0.0.1:5555", "reef", "secret")
    owner.release()
    assert owner.read_flower() is None
    assert owner.read_run_file() is None
