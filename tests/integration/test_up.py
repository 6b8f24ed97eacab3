"""`coral-reef up` as a person starts it: a process of its own, everything real but the model (a simulated device)."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from reef.ledger import Ledger
from reef.records.database import Database
from reef.settings import Settings
from workers import broker, child_process

ROOT = Path(__file__).resolve().parents[2]
READY_S = 60.0
QUEUES = """\
version: 1
pools:
  chat: {queue: chat, devices: [simulated], engine: simulated, model: simulated, streams: 2}
"""


class Up:
    """A running `coral-reef up` and what it has printed."""

    def __init__(self, directory: Path, *arguments: str, queues: str = QUEUES, grpc_port: int = 0) -> None:
        directory.mkdir(exist_ok=True)
        (directory / "queues.yaml").write_text(queues)
        self.data = directory / "data"
        self.port = broker.free_port()
        cleared = {f"REEF_{name.upper()}" for name in Settings.__struct_fields__}
        inherited = {name: value for name, value in os.environ.items() if name not in cleared}
        self.environment = inherited | {
            "REEF_DATA_DIR": str(self.data),
            "REEF_QUEUES_FILE": str(directory / "queues.yaml"),
            "REEF_PORT": str(self.port),
            "REEF_GRPC_PORT": str(grpc_port),
        }
        self.lines: list[str] = []
        self._changed = threading.Condition()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "cli", "up", *arguments],
            cwd=ROOT,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                with self._changed:
                    self.lines.append(line)
                    self._changed.notify_all()
        with self._changed:
            self.lines.append("(end of output)")
            self._changed.notify_all()

    @property
    def output(self) -> str:
        """Everything printed so far."""
        return "".join(self.lines)

    def wait_for(self, text: str, timeout_s: float = READY_S) -> str:
        """Wait until a line with this text has been printed; the line."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not (found := [line for line in self.lines if text in line]):
                assert "(end of output)" not in self.lines, self.output
                assert self._changed.wait(deadline - time.monotonic()), f"no {text!r} in:\n{self.output}"
        return found[0]

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Another `coral-reef` command with the same environment."""
        return subprocess.run(
            [sys.executable, "-m", "cli", *arguments],
            cwd=ROOT,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=READY_S,
            check=False,
        )

    def status(self) -> dict[str, Any]:
        """`coral-reef status --json`."""
        answer = self.command("status", "--json")
        assert answer.returncode == 0, answer.stderr
        result: dict[str, Any] = json.loads(answer.stdout)
        return result

    def processes(self) -> dict[str, child_process.ProcessId]:
        """The processes as recorded in the run file."""
        record = json.loads((self.data / "run/up.json").read_bytes())
        return {p["name"]: child_process.ProcessId(p["pid"], p["start_ticks"]) for p in record["processes"] if p["pid"]}

    def end(self, signum: int = signal.SIGINT) -> int:
        """Send a signal (as Ctrl-C does) and wait; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signum)
        try:
            status = self.process.wait(READY_S)
        finally:
            self.process.kill()
            self._reader.join()
        return status


def wait_until(condition: Callable[[], object], what: str, timeout_s: float = READY_S) -> None:
    """Poll something that has no event of its own."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:.0f} s for: {what}"
        time.sleep(0.02)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One running reef for the tests that leave it running."""
    running = Up(tmp_path_factory.mktemp("up"), grpc_port=broker.free_port())
    running.wait_for("Ctrl-C stops everything")
    yield running
    running.end()


def test_it_says_where_the_page_is_and_the_page_is_there(up: Up) -> None:
    """What is printed can be opened."""
    url = up.wait_for("Chat page").split()[-1]
    assert url == f"http://127.0.0.1:{up.port}"
    assert httpx.get(f"{url}/readyz", trust_env=False).status_code == 200
    assert httpx.get(url, trust_env=False, follow_redirects=True).headers["content-type"].startswith("text/html")
    host, _, port = up.wait_for("gRPC").split()[-1].partition(":")
    socket.create_connection((host, int(port)), timeout=5).close()


def test_status_shows_processes_devices_and_queues(up: Up) -> None:
    """Everything that runs is listed with its memory; a simulated device is called so."""
    report = up.status()
    names = [process["name"] for process in report["processes"]]
    assert names == ["broker", "gateway", "web", "chat-simulated", "sweeper", "flower"]
    for process in report["processes"]:
        assert process["state"] == "running"
        assert process["memory_bytes"] > 1_000_000
    (pool,) = report["reef"]["pools"]
    assert (pool["queue"], pool["devices"][0]["simulated"]) == ("chat", True)
    text = up.command("status").stdout
    for part in ("broker", "chat-simulated", "(simulated)", report["flower"]["password"], "Broker  ok", "Gateway  ok"):
        assert part in text
    address = up.wait_for("gRPC").split()[-1]
    assert (report["reef"]["grpc"], f"gRPC  {address}" in text) == (address, True)


def test_flower_asks_for_its_password(up: Up) -> None:
    """Flower listens on loopback and lets in who read the private file."""
    login = up.status()["flower"]
    wait_until(lambda: answers(login["url"]), "Flower")
    assert httpx.get(login["url"], trust_env=False).status_code == 401
    with_password = httpx.get(login["url"], auth=(login["user"], login["password"]), trust_env=False)
    assert with_password.status_code == 200
    assert oct((up.data / "run/flower.json").stat().st_mode)[-3:] == "600"


def answers(url: str) -> bool:
    """Whether an HTTP server is there."""
    try:
        httpx.get(url, trust_env=False)
    except httpx.TransportError:
        return False
    return True


def test_a_killed_worker_is_started_at_once_and_serves_again(up: Up) -> None:
    """Its successor does not wait for anything but its own start, and `up` says what happened."""
    before = up.processes()["chat-simulated"]
    killed_at = time.time()
    os.kill(before.pid, signal.SIGKILL)
    wait_until(lambda: ready_pid(up) not in (None, before.pid), "a worker that is ready")
    record = json.loads((up.data / "run/up.json").read_bytes())
    (started_at,) = (p["started_at"] for p in record["processes"] if p["name"] == "chat-simulated")
    assert started_at - killed_at < 10.0, "at once; the bench measures how fast"
    up.wait_for("chat-simulated: killed by SIGKILL; runs again as process")


def ready_pid(up: Up) -> int | None:
    """Process of the worker that reports to be ready."""
    report = httpx.get(f"http://127.0.0.1:{up.port}/api/v1/system/status", trust_env=False).json()
    states = {device["state"] for pool in report["pools"] for device in pool["devices"]}
    process = up.processes().get("chat-simulated")
    return process.pid if process is not None and states <= {"ready", "busy"} and states else None


def test_a_second_up_is_refused(up: Up) -> None:
    """It names the running one, and leaves it alone."""
    second = up.command("up", "--port", str(broker.free_port()))
    assert second.returncode == 1
    assert f"already runs in {up.data}: http://127.0.0.1:{up.port} (process {up.process.pid}" in second.stderr
    assert up.process.poll() is None


def test_no_secret_is_in_logs_or_on_command_lines(up: Up) -> None:
    """The passwords of broker and Flower are in private files and environments only."""
    endpoint = json.loads((up.data / "broker/endpoint.json").read_bytes())
    secrets = [endpoint["password"], up.status()["flower"]["password"]]
    texts = {path.name: path.read_text() for path in (up.data / "logs").iterdir()}
    assert {"broker.log", "gateway.log", "web.log", "chat-simulated.log", "sweeper.log", "flower.log"} <= set(texts)
    texts |= {
        f"command line of {name}": Path(f"/proc/{process.pid}/cmdline").read_text()
        for name, process in up.processes().items()
    }
    texts["output of up"] = up.output
    found = [name for name, text in texts.items() for secret in secrets if secret in text]
    assert found == []


def test_ctrl_c_stops_everything_in_order(tmp_path: Path) -> None:
    """Exit status 0, no process left, the port free, and the directory ready for the next start."""
    running = Up(tmp_path / "reef", "--no-flower")
    running.wait_for("Ctrl-C stops everything")
    processes = running.processes()
    assert set(processes) == {"broker", "gateway", "web", "chat-simulated", "sweeper"}
    assert running.end(signal.SIGINT) == 0
    assert "Stopping: running replies finish or are handed back" in running.output
    assert "Traceback" not in running.output
    assert [name for name, process in processes.items() if child_process.is_alive(process)] == []
    assert broker.port_is_free(running.port)
    assert not (running.data / "run/up.json").exists()


def test_nothing_outlives_a_killed_up(tmp_path: Path) -> None:
    """After kill -9 of `up` its processes end by themselves; the next `up` in the same directory goes on with the
    reply that they were at, and does not wait for its lease."""
    queues = QUEUES.replace("streams: 2", "streams: 2, limits: {lease_s: 3000}")
    first = Up(tmp_path / "reef", "--no-flower", queues=queues)
    first.wait_for("Ctrl-C stops everything")
    body = {"persona_id": "alice", "message": "a reply that takes its time " * 10, "wait": False}
    said = httpx.post(f"http://127.0.0.1:{first.port}/api/v1/chat", json=body, trust_env=False).json()
    database = Database(f"sqlite:///{first.data}/reef.db")
    ledger = Ledger(database)
    wait_until(lambda: ledger.get(said["run_id"]).state == "running", "a reply that is written")
    processes = first.processes()
    assert first.end(signal.SIGKILL) == -signal.SIGKILL
    wait_until(lambda: not any(map(child_process.is_alive, processes.values())), "the end of all processes", 10)
    assert ledger.get(said["run_id"]).state == "running"
    second = Up(tmp_path / "reef", "--no-flower", queues=queues)
    try:
        second.wait_for("An earlier start ended without a word; what its workers held is free again")
        second.wait_for("Ctrl-C stops everything")
        wait_until(lambda: ledger.get(said["run_id"]).ended, "the end of the reply")
        record = ledger.get(said["run_id"])
        assert (record.state, record.attempts) == ("done", 2)
    finally:
        database.dispose()
        assert second.end() == 0


def test_beyond_loopback_a_key_is_made_shown_once_and_asked_for(tmp_path: Path) -> None:
    """The first start prints an API key that works, stores its digest only, and `status` gets in by itself."""
    running = Up(tmp_path / "reef", "--no-flower", "--host", "0.0.0.0")
    running.wait_for("Ctrl-C stops everything")
    key = running.wait_for("API key").split()[-1]
    url = f"http://127.0.0.1:{running.port}/api/v1/personas"
    assert httpx.get(url, trust_env=False).status_code == 401
    assert httpx.get(url, headers={"Authorization": f"Bearer {key}"}, trust_env=False).status_code == 200
    assert running.status()["reef"]["broker"] == "ok"
    assert running.end() == 0
    for path in (running.data / "logs").iterdir():
        assert key not in path.read_text(), path.name
    again = Up(tmp_path / "reef", "--no-flower", "--host", "0.0.0.0")
    again.wait_for("Ctrl-C stops everything")
    assert not re.search(r"reef_\w{20}", again.output)
    assert "coral-reef keys create" in again.output
    assert again.end() == 0


def test_a_worker_that_cannot_start_is_explained(tmp_path: Path) -> None:
    """When no device can serve, `up` ends with the reason instead of waiting."""
    bad = tmp_path / "broken.gguf"
    bad.write_bytes(b"GGUF but nothing behind it")
    queues = QUEUES.replace("[simulated]", "[cpu]").replace("engine: simulated", "engine: auto")
    running = Up(tmp_path / "reef", "--no-flower", "--model", str(bad), queues=queues)
    assert running.process.wait(READY_S) == 1
    running.end()
    assert "broken.gguf" in running.output
    assert "Traceback" not in running.output
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", running.port)) != 0
