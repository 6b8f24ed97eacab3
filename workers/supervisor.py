"""Keeps a set of processes running: starts them, restarts what dies, collects their output, ends them in order.

One thread does everything that must not race: it forks (so that the kernel binds the children to a thread that lives
as long as they do), reads their output, and reacts to deaths the moment they happen. Callers talk to it through a
queue and wait on a condition. Knows nothing of brokers, workers or the web: see `cli/launch.py` for what is run.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent import futures
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from workers import child_process
from workers.process_log import ProcessLog, tail
from workers.process_spec import ExitReport, ProcessFailed, ProcessSpec, ProcessState, State

RESTART_DELAYS_S = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0)
"""Wait before the n-th restart in a row; the first is immediate, the last repeats."""
HEALTHY_AFTER_S = 10.0
"""A process that lived this long starts its count of restarts anew."""
EXIT_HOOK_WAIT_MAX_S = 2.0
"""A restart waits this long for the exit hook (handing back the dead worker's jobs), then goes on without it."""
START_DEATHS_MAX = 3
"""`wait_ready` gives up on a process that died this often."""
PROBE_INTERVAL_S = 0.05
READ_BYTES = 64 * 1024
LAST_READS_MAX = 64
"""Reads of a dead process's pipe; more can only come from a child of its that got away."""
COMMAND_WAIT_S = 10.0


@dataclass
class _Process:
    """The supervisor thread's own book of one process."""

    spec: ProcessSpec
    log: ProcessLog
    popen: subprocess.Popen[bytes] | None = None
    state: State = "starting"
    wanted: bool = True
    start_ticks: int = 0
    started_at: float = 0.0
    started_mono: float = 0.0
    restarts: int = 0
    deaths_in_a_row: int = 0
    restart_at: float | None = None
    hook: Future[None] | None = None
    last_exit: str = ""
    deaths: int = 0
    died_mono: float = 0.0


class Supervisor:
    """Runs processes until `close`. All public methods may be called from any thread."""

    def __init__(
        self,
        log_dir: Path,
        *,
        secrets: Sequence[str] = (),
        on_change: Callable[[Sequence[ProcessState]], None] | None = None,
        healthy_after_s: float = HEALTHY_AFTER_S,
        echo: int | None = None,
    ) -> None:
        """`echo`: a file descriptor that gets every line as well, as far as its reader keeps up."""
        self._log_dir = log_dir
        self._secrets = tuple(secrets)
        self._on_change = on_change
        self._healthy_after_s = healthy_after_s
        self._echo = echo
        self._processes: dict[str, _Process] = {}
        self._changed = threading.Condition()
        self._commands: list[Callable[[], None]] = []
        self._closing = False
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe()
        os.set_blocking(self._wake_read, False)
        os.set_blocking(self._wake_write, False)
        self._selector.register(self._wake_read, selectors.EVENT_READ, None)
        self._hooks = ThreadPoolExecutor(max_workers=4, thread_name_prefix="exit-hook")
        self._thread = threading.Thread(target=self._run, name="supervisor", daemon=True)
        self._thread.start()

    # --- for callers -------------------------------------------------------------------------------------------

    def start(self, spec: ProcessSpec) -> None:
        """Run a process from now on. Raises OSError if its log cannot be opened or it cannot be forked."""
        done: Future[None] = Future()
        if spec.name in self._processes:
            raise ValueError(f"a process named {spec.name} is already supervised")

        def command() -> None:
            try:
                process = _Process(spec, ProcessLog(self._log_dir / f"{spec.name}.log", self._secrets, echo=self._echo))
                self._spawn(process)
                self._processes[spec.name] = process
                self._announce()
                done.set_result(None)
            except OSError as error:
                done.set_exception(error)

        self._post(command)
        done.result(timeout=COMMAND_WAIT_S)

    def wait_ready(self, name: str, timeout_s: float) -> None:
        """Wait until the probe of a process says yes. Raises ProcessFailed with the reason and the log's end."""
        process = self._processes[name]
        probe, deaths_before = process.spec.probe, process.deaths
        deadline = time.monotonic() + timeout_s
        while probe is not None and not probe():
            deaths = process.deaths - deaths_before
            if deaths >= START_DEATHS_MAX or not process.wanted:
                raise ProcessFailed(self._failed(name, f"ended {deaths} times ({process.last_exit})"))
            if time.monotonic() > deadline:
                raise ProcessFailed(self._failed(name, f"was not ready within {timeout_s:.0f} s"))
            with self._changed:
                self._changed.wait(PROBE_INTERVAL_S)

    def states(self) -> list[ProcessState]:
        """All processes, in the order they were started."""
        return [_snapshot(process) for process in list(self._processes.values())]

    def pids(self) -> dict[str, int]:
        """Numbers of the processes that run now, by name."""
        return {state.name: state.pid for state in self.states() if state.pid}

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """Send a signal to one process (not to its children). Returns the number it had."""
        pid = self.pids().get(name)
        if pid is None:
            raise ProcessLookupError(f"{name} does not run")
        os.kill(pid, signum)
        return pid

    def explain(self, name: str) -> str:
        """How a process ended last, with the end of its log."""
        process = self._processes[name]
        return self._failed(name, f"ended {process.deaths} times ({process.last_exit})")

    def stop(self, names: Iterable[str], *, timeout_s: float | None = None) -> None:
        """Ask processes to stop, wait for each one's grace (at most `timeout_s`), then kill what is left."""
        chosen = [name for name in self._processes if name in set(names)]
        graces = {name: self._processes[name].spec.stop_grace_s for name in chosen}
        if timeout_s is not None:
            graces = {name: min(grace, timeout_s) for name, grace in graces.items()}
        began = time.monotonic()
        self._post(lambda: self._ask_to_stop(chosen))
        for name in sorted(chosen, key=lambda name: graces[name]):
            if not self._wait_gone(name, began + graces[name]):
                self._post(functools.partial(self._kill_now, name))
        for name in chosen:
            self._wait_gone(name, time.monotonic() + COMMAND_WAIT_S)
        hooks = [hook for name in chosen if (hook := self._processes[name].hook) is not None]
        futures.wait(hooks, timeout=EXIT_HOOK_WAIT_MAX_S)

    def stop_all(self, *, timeout_s: float | None = None) -> None:
        """Stop everything, phase by phase. `timeout_s` shortens every grace."""
        for phase in sorted({process.spec.stop_phase for process in self._processes.values()}):
            self.stop(
                [name for name, process in self._processes.items() if process.spec.stop_phase == phase],
                timeout_s=timeout_s,
            )

    def close(self) -> None:
        """Stop what still runs, at once, and end the thread. Does nothing the second time."""
        if self._closing:
            return
        self.stop_all(timeout_s=0.5)
        self._closing = True
        self._post(lambda: None)
        self._thread.join(COMMAND_WAIT_S)
        self._hooks.shutdown(wait=False, cancel_futures=True)

    # --- in the supervisor thread ------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select(self._until_next_restart()):
                if key.data is None:
                    self._drain_wakeups()
                else:
                    self._read_output(key.data)
            for command in self._take_commands():
                command()
            self._restart_due()
        self._selector.close()
        os.close(self._wake_read)
        os.close(self._wake_write)

    def _post(self, command: Callable[[], None]) -> None:
        with self._changed:
            self._commands.append(command)
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake_write, b"\0")

    def _take_commands(self) -> list[Callable[[], None]]:
        with self._changed:
            taken, self._commands = self._commands, []
        return taken

    def _drain_wakeups(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_read, 4096):
                pass

    def _announce(self) -> None:
        """Tell waiters and the listener that something is different now."""
        with self._changed:
            self._changed.notify_all()
        if self._on_change is not None:
            self._on_change(self.states())

    def _spawn(self, process: _Process) -> None:
        spec = process.spec
        popen = child_process.spawn(spec.argv, spec.environment, spec.directory)
        assert popen.stdout is not None  # noqa: S101 - spawn always makes the pipe
        os.set_blocking(popen.stdout.fileno(), False)
        self._selector.register(popen.stdout, selectors.EVENT_READ, process)
        identity = child_process.identify(popen.pid)
        process.popen = popen
        process.start_ticks = identity.start_ticks if identity else 0
        process.started_at, process.started_mono = time.time(), time.monotonic()
        process.state, process.restart_at = "running", None
        threading.Thread(target=self._watch, args=(process, popen), name=f"watch-{spec.name}", daemon=True).start()

    def _watch(self, process: _Process, popen: subprocess.Popen[bytes]) -> None:
        """Runs in a thread per process: the kernel wakes it the moment the process ends."""
        child_process.wait_for_exit(popen.pid)
        self._post(lambda: self._exited(process, popen))

    def _exited(self, process: _Process, popen: subprocess.Popen[bytes]) -> None:
        child_process.kill_group(popen.pid)
        returncode = popen.wait()
        self._finish_output(process, popen)
        expected = not process.wanted and returncode >= 0
        report = ExitReport(process.spec.name, popen.pid, returncode, expected)
        process.popen, process.start_ticks = None, 0
        process.last_exit, process.died_mono = child_process.describe_exit(returncode), time.monotonic()
        if process.spec.on_exit is not None and not expected:
            process.hook = self._hooks.submit(process.spec.on_exit, report)
            process.hook.add_done_callback(lambda _: self._post(lambda: None))
        if process.wanted:
            self._plan_restart(process)
        else:
            process.state = "stopped"
            process.log.close()
        self._announce()

    def _plan_restart(self, process: _Process) -> None:
        process.deaths += 1
        if time.monotonic() - process.started_mono >= self._healthy_after_s:
            process.deaths_in_a_row = 0
        delay = RESTART_DELAYS_S[min(process.deaths_in_a_row, len(RESTART_DELAYS_S) - 1)]
        process.deaths_in_a_row += 1
        process.restart_at = time.monotonic() + delay
        process.state = "waiting"
        process.log.feed(f"--- {process.spec.name} ended ({process.last_exit}); restart in {delay:g} s ---\n".encode())

    def _until_next_restart(self) -> float | None:
        due = [self._restart_time(process) for process in self._processes.values() if process.restart_at]
        return max(0.0, min(due) - time.monotonic()) if due else None

    def _restart_time(self, process: _Process) -> float:
        """When the restart is due: after its delay, and not before the exit hook has ended or had its time."""
        at = process.restart_at or 0.0
        if process.hook is not None and not process.hook.done():
            at = max(at, process.died_mono + EXIT_HOOK_WAIT_MAX_S)
        return at

    def _restart_due(self) -> None:
        for process in self._processes.values():
            if process.restart_at is None or self._restart_time(process) > time.monotonic():
                continue
            process.restarts += 1
            try:
                self._spawn(process)
            except OSError as error:
                process.last_exit = f"could not be started: {error}"
                process.started_mono = time.monotonic()
                self._plan_restart(process)
            self._announce()

    def _ask_to_stop(self, names: Iterable[str]) -> None:
        for process in map(self._processes.__getitem__, names):
            process.wanted, process.restart_at = False, None
            if process.popen is not None:
                process.state = "stopping"
                process.popen.send_signal(signal.SIGTERM)
            elif process.state != "stopped":
                process.state = "stopped"
                process.log.close()
        self._announce()

    def _kill_now(self, name: str) -> None:
        popen = self._processes[name].popen
        if popen is not None:
            child_process.kill_group(popen.pid)

    def _wait_gone(self, name: str, deadline: float) -> bool:
        with self._changed:
            while self._processes[name].state != "stopped":
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return False
                self._changed.wait(left_s)
        return True

    def _read_output(self, process: _Process) -> None:
        popen = process.popen
        if popen is None or popen.stdout is None or popen.stdout.closed:
            return
        with contextlib.suppress(BlockingIOError):
            data = os.read(popen.stdout.fileno(), READ_BYTES)
            if data:
                process.log.feed(data)
            else:
                self._selector.unregister(popen.stdout)
                popen.stdout.close()

    def _finish_output(self, process: _Process, popen: subprocess.Popen[bytes]) -> None:
        """Keep what a dead process has written last; its pipe holds at most a few pages."""
        stdout = popen.stdout
        if stdout is None or stdout.closed:
            return
        with contextlib.suppress(BlockingIOError):
            for _ in range(LAST_READS_MAX):
                process.log.feed(os.read(stdout.fileno(), READ_BYTES))
        self._selector.unregister(stdout)
        stdout.close()

    def _failed(self, name: str, what: str) -> str:
        path = self._log_dir / f"{name}.log"
        lines = "\n".join(f"    {line}" for line in tail(path))
        return f"{name} {what}. The end of {path}:\n{lines}" if lines else f"{name} {what}; {path} is empty."


def _snapshot(process: _Process) -> ProcessState:
    return ProcessState(
        name=process.spec.name,
        state=process.state,
        pid=process.popen.pid if process.popen is not None else 0,
        start_ticks=process.start_ticks,
        started_at=process.started_at,
        restarts=process.restarts,
        last_exit=process.last_exit,
    )
