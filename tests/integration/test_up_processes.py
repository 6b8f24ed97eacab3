"""ReefProcesses, the part of `up` that the tests build on: starts, answers questions, lets things die, stops."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from cli.errors import Problem
from cli.launch import ReefProcesses
from cli.machine import local_devices
from reef.settings import Settings
from reef.topology import load_topology
from workers import broker, child_process

WAIT_S = 60.0
QUEUES = """\
version: 1
pools:
  chat: {queue: chat, devices: [simulated, "simulated:1"], engine: simulated, model: simulated, streams: 2}
  embed: {queue: embed, devices: ["simulated@elsewhere"], engine: simulated, model: simulated}
"""


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Poll something that has no event of its own."""
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"waited {WAIT_S:.0f} s for: {what}"
        time.sleep(0.02)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[ReefProcesses]:
    """A reef with two devices here and one on another machine."""
    (tmp_path / "queues.yaml").write_text(QUEUES)
    settings = Settings(
        data_dir=tmp_path / "data", queues_file=tmp_path / "queues.yaml", port=broker.free_port(), log_level="warning"
    )
    reef = ReefProcesses(settings, flower=False)
    yield reef
    reef.stop(timeout_s=5.0)


def test_it_starts_what_belongs_here_and_survives_the_broker(processes: ReefProcesses) -> None:
    """A device of another machine is not started; a killed broker comes back under its URL; stop leaves nothing."""
    processes.start()
    processes.wait_ready(WAIT_S)
    pids = processes.pids()
    assert set(pids) == {"broker", "gateway", "web", "chat-simulated", "chat-simulated-1", "sweeper"}
    assert processes.client.unready_checks().keys() == {"pool embed"}
    url = processes.settings.redis_url
    killed = processes.kill("broker", signal.SIGKILL)
    assert killed == pids["broker"]
    wait_until(lambda: processes.pids().get("broker", killed) != killed and broker.answers(url), "the broker")
    wait_until(lambda: processes.client.unready_checks().keys() == {"pool embed"}, "everything else")
    survivors = {name: pid for name, pid in processes.pids().items() if name != "broker"}
    assert survivors == {name: pid for name, pid in pids.items() if name != "broker"}
    processes.stop()
    assert [pid for pid in survivors.values() if child_process.identify(pid)] == []


def test_a_failed_start_can_be_stopped(processes: ReefProcesses) -> None:
    """`stop` undoes half a start, so that the next one finds the directory free."""
    broken = ReefProcesses(processes.settings.changed(database_url="mysql://nowhere/x"), flower=False)
    with pytest.raises(Problem):
        broken.start()
    broken.stop()
    processes.start()
    assert "web" in processes.pids()


def test_devices_of_this_machine(tmp_path: Path) -> None:
    """A device without a host, and one with this host's name, are ours."""
    import socket

    here = socket.gethostname().partition(".")[0].lower()
    path = tmp_path / "queues.yaml"
    path.write_text(QUEUES.replace("elsewhere", here))
    names = [(pool.name, device.name) for pool, device in local_devices(load_topology(path))]
    assert names == [("chat", "simulated"), ("chat", "simulated:1"), ("embed", "simulated")]
    path.write_text(QUEUES)
    assert len(local_devices(load_topology(path))) == 2
