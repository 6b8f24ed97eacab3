"""The supervisor against real processes: restarts, order of stopping, output, and what a killed parent leaves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from workers import child_process, supervisor
from workers.process_spec import ExitReport, ProcessFailed, ProcessSpec
from workers.supervisor import Supervisor

ROOT = Path(__file__).resolve().parents[2]
WAIT_S = 30.0


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll something that has no event of its own."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s for: {what}"
        time.sleep(0.01)


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Supervisor]:
    """A supervisor whose processes are gone after the test."""
    keeper = Supervisor(tmp_path)
    yield keeper
    keeper.close()


def script(tmp_path: Path, name: str, code: str, **fields: object) -> ProcessSpec:
    """A process that runs a piece of Python."""
    argv = [sys.executable, "-u", "-c", textwrap.dedent(code)]
    return ProcessSpec(name=name, argv=argv, environment=dict(os.environ), directory=tmp_path, **fields)  # type: ignore[arg-type]


SLEEPER = "import time; print('up', flush=True); time.sleep(600)"


def test_a_killed_process_is_back_at_once(watch: Supervisor, tmp_path: Path) -> None:
    """The first restart does not wait: a killed worker must answer again within seconds."""
    watch.start(script(tmp_path, "sleeper", SLEEPER))
    first = watch.kill("sleeper", signal.SIGKILL)
    wait_until(lambda: watch.pids().get("sleeper", first) != first, "a second process")
    assert "(killed by SIGKILL); restart in 0 s" in (tmp_path / "sleeper.log").read_text()
    state = watch.states()[0]
    assert (state.restarts, state.last_exit) == (1, "killed by SIGKILL")


def test_restarts_slow_down(watch: Supervisor, tmp_path: Path) -> None:
    """A process that dies at once is restarted ever more slowly, not in a busy loop."""
    watch.start(script(tmp_path, "crasher", "raise SystemExit(7)"))
    wait_until(lambda: watch.states()[0].restarts >= 3, "three restarts")
    lines = (tmp_path / "crasher.log").read_text().splitlines()
    delays = [line.split("restart in ")[1] for line in lines if "restart in" in line]
    assert delays[:3] == ["0 s ---", "0.25 s ---", "0.5 s ---"]
    assert "exit status 7" in lines[0]


def test_a_healthy_life_resets_the_delay(tmp_path: Path) -> None:
    """Two deaths with a healthy time between them are two first deaths."""
    keeper = Supervisor(tmp_path, healthy_after_s=0.0)
    try:
        keeper.start(script(tmp_path, "sleeper", SLEEPER))
        for count in (1, 2, 3):
            before = keeper.kill("sleeper")
            wait_until(lambda before=before: keeper.pids().get("sleeper", before) != before, "a restart")
            assert keeper.states()[0].restarts == count
        assert (tmp_path / "sleeper.log").read_text().count("restart in 0 s") == 3
    finally:
        keeper.close()


def test_the_exit_hook_runs_before_the_restart(
    watch: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dead worker's jobs are handed back before its successor asks for jobs."""
    monkeypatch.setattr(supervisor, "EXIT_HOOK_WAIT_MAX_S", WAIT_S)
    events: list[str] = []
    reports: list[ExitReport] = []
    released = threading.Event()

    def hook(report: ExitReport) -> None:
        reports.append(report)
        events.append(f"hook sees {sorted(watch.pids())}")
        released.wait(WAIT_S)

    watch.start(script(tmp_path, "sleeper", SLEEPER, on_exit=hook))
    first = watch.kill("sleeper")
    try:
        wait_until(lambda: events, "the hook")
        assert watch.pids() == {}
    finally:
        released.set()
    wait_until(watch.pids, "the restart")
    assert events == ["hook sees []"]
    assert reports == [ExitReport("sleeper", first, -signal.SIGKILL, expected=False)]


def test_a_hanging_exit_hook_delays_a_restart_only_so_long(
    watch: Supervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook that hangs (a dead database) does not keep a worker from coming back."""
    monkeypatch.setattr(supervisor, "EXIT_HOOK_WAIT_MAX_S", 0.2)
    forever = threading.Event()
    try:
        watch.start(script(tmp_path, "sleeper", SLEEPER, on_exit=lambda _: forever.wait(30) and None))
        first = watch.kill("sleeper")
        wait_until(lambda: watch.pids().get("sleeper", first) != first, "the restart")
        assert not forever.is_set()
    finally:
        forever.set()


def test_phases_stop_one_after_the_other(watch: Supervisor, tmp_path: Path) -> None:
    """The broker is asked to stop when the workers have gone, not before."""
    code = """
        import signal, sys, time
        def stop(*_):
            time.sleep({delay}); print({name!r}, "stopped", time.monotonic(), flush=True); sys.exit(0)
        signal.signal(signal.SIGTERM, stop)
        print("ready", flush=True)
        while True: time.sleep(600)
    """
    for name, phase, delay in (("late", 1, 0), ("early", 0, 0.3)):
        watch.start(script(tmp_path, name, code.format(name=name, delay=delay), stop_phase=phase))
        wait_until(lambda name=name: "ready" in (tmp_path / f"{name}.log").read_text(), f"{name} ready")
    watch.stop_all()
    stopped_at = {name: float((tmp_path / f"{name}.log").read_text().split()[-1]) for name in ("early", "late")}
    assert stopped_at["early"] < stopped_at["late"]
    assert [(state.state, state.last_exit) for state in watch.states()] == [("stopped", "exit status 0")] * 2


def test_a_process_that_ignores_sigterm_is_killed_with_its_children(watch: Supervisor, tmp_path: Path) -> None:
    """A grace has an end, and a dead process leaves no child behind."""
    code = """
        import os, signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        deaf = "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"
        child = subprocess.Popen([sys.executable, "-c", deaf])
        print(child.pid, flush=True)
        time.sleep(600)
    """
    watch.start(script(tmp_path, "stubborn", code, stop_grace_s=0.2))
    log = tmp_path / "stubborn.log"
    wait_until(lambda: log.read_text().strip(), "the child's number")
    child = int(log.read_text())
    assert child_process.identify(child) is not None
    watch.stop(["stubborn"])
    assert watch.states()[0].last_exit == "killed by SIGKILL"
    wait_until(lambda: child_process.identify(child) is None, "the grandchild's end")


def test_a_failed_start_tells_the_end_of_the_log(watch: Supervisor, tmp_path: Path) -> None:
    """Who waits for a process that cannot run learns why."""
    watch.start(script(tmp_path, "broken", "raise SystemExit('no such model')", probe=lambda: False))
    with pytest.raises(ProcessFailed, match=r"(?s)broken ended [3-9] times \(exit status 1\).*no such model"):
        watch.wait_ready("broken", WAIT_S)


def test_secrets_are_blotted_out_of_the_log(tmp_path: Path) -> None:
    """A password that a library prints does not reach the disk, even when it arrives in two pieces."""
    keeper = Supervisor(tmp_path, secrets=["hunter2-token"])
    code = """
        import sys, time
        sys.stdout.write("url redis://:hunter2-"); sys.stdout.flush(); time.sleep(0.1)
        sys.stdout.write("token@host\\nend\\n"); sys.stdout.flush(); time.sleep(600)
    """
    try:
        keeper.start(script(tmp_path, "chatty", code))
        wait_until(lambda: "end" in (tmp_path / "chatty.log").read_text(), "the output")
        assert (tmp_path / "chatty.log").read_text() == "url redis://:[secret]@host\nend\n"
    finally:
        keeper.close()


def test_nothing_outlives_a_killed_supervisor(tmp_path: Path) -> None:
    """kill -9 of `up` takes the children along: no port stays taken, no device stays owned."""
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(f"""
                import os, sys, time
                from pathlib import Path
                from workers.process_spec import ProcessSpec
                from workers.supervisor import Supervisor
                keeper = Supervisor(Path({str(tmp_path)!r}))
                argv = [sys.executable, "-c", "import time; time.sleep(600)"]
                keeper.start(ProcessSpec("child", argv, dict(os.environ), Path({str(tmp_path)!r})))
                print(keeper.pids()["child"], flush=True)
                time.sleep(600)
            """),
        ],
        stdout=subprocess.PIPE,
        cwd=ROOT,
    )
    assert parent.stdout is not None
    with parent, contextlib.closing(parent.stdout):
        child = child_process.identify(int(parent.stdout.readline()))
        assert child is not None
        parent.kill()
        parent.wait()
        wait_until(lambda: not child_process.is_alive(child), "the child's end")


def test_the_children_of_a_dead_leftover_are_ended(tmp_path: Path) -> None:
    """A web server whose master is gone but whose worker holds the port is found by its group."""
    code = "import subprocess, sys; print(subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)']).pid)"
    master = subprocess.Popen([sys.executable, "-u", "-c", code], start_new_session=True, stdout=subprocess.PIPE)
    assert master.stdout is not None
    with master, contextlib.closing(master.stdout):
        worker = int(master.stdout.readline())
        master.wait()
        assert child_process.identify(worker) is not None
        assert child_process.end_leftovers([child_process.ProcessId(master.pid, 1)]) == [master.pid]
        wait_until(lambda: child_process.identify(worker) is None, "the worker's end")


def test_leftovers_are_ended_and_strangers_are_not(tmp_path: Path) -> None:
    """A recorded number that now belongs to another process is left alone."""
    sleeper = subprocess.Popen([sys.executable, "-c", SLEEPER], start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        real = child_process.identify(sleeper.pid)
        assert real is not None
        stranger = child_process.ProcessId(sleeper.pid, real.start_ticks - 1)
        assert child_process.end_leftovers([stranger]) == []
        assert sleeper.poll() is None
        reaper = threading.Thread(target=sleeper.wait)
        reaper.start()
        assert child_process.end_leftovers([real]) == [sleeper.pid]
        reaper.join(WAIT_S)
        assert sleeper.returncode == -signal.SIGKILL
    finally:
        if sleeper.poll() is None:
            sleeper.kill()
        sleeper.wait()
