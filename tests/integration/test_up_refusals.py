"""What `coral-reef up` says when it cannot start: one sentence about the cause, one about what to do, exit status 1."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.data_directory import DataDirectory
from cli.main import main
from workers import broker

QUEUES = """\
version: 1
pools:
  chat: {queue: chat, devices: []}
"""


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runner:
    """Runs `coral-reef` with a data directory, a free port and a queues.yaml of its own."""
    (tmp_path / "queues.yaml").write_text(QUEUES)
    monkeypatch.setenv("REEF_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REEF_QUEUES_FILE", str(tmp_path / "queues.yaml"))
    monkeypatch.setenv("REEF_PORT", str(broker.free_port()))
    for name in ("REEF_REDIS_URL", "REEF_DATABASE_URL", "REEF_MODEL", "REEF_HOST"):
        monkeypatch.delenv(name, raising=False)
    return Runner()


class Runner:
    """Calls the command line in this process."""

    def __call__(self, *arguments: str) -> Result:
        return CliRunner().invoke(main, list(arguments))

    def refusal(self, *arguments: str) -> str:
        """What the command says before it ends with status 1; its lines joined."""
        result = self(*arguments)
        assert result.exit_code == 1, result.output
        assert "Traceback" not in result.output
        return " ".join(result.output.split())


def test_a_second_up_in_the_same_directory(run: Runner, tmp_path: Path) -> None:
    """The second start leaves the first alone."""
    owner = DataDirectory(tmp_path / "data")
    owner.acquire()
    try:
        assert f"Another coral-reef up is starting or stopping in {tmp_path}" in run.refusal("up")
    finally:
        owner.release()


def test_a_busy_port(run: Runner) -> None:
    """The message names the port and offers a free one."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        text = run.refusal("up", "--port", str(port))
    assert f"Port {port} on 127.0.0.1 is taken" in text
    assert "--port 2" in text or "--port 3" in text


def test_a_busy_port_of_the_grpc_api(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Taken by another program, or by the page itself: told before anything is started."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = str(server.getsockname()[1])
        monkeypatch.setenv("REEF_GRPC_PORT", port)
        text = run.refusal("up")
        assert f"REEF_GRPC_PORT is {port}, which is taken on 127.0.0.1" in text
        assert "REEF_GRPC_PORT=2" in text or "REEF_GRPC_PORT=3" in text
    free = str(broker.free_port())
    monkeypatch.setenv("REEF_GRPC_PORT", free)
    assert f"REEF_GRPC_PORT is {free}" in run.refusal("up", "--port", free)


def test_an_address_of_another_machine(run: Runner) -> None:
    """A host that is not ours is not called a busy port only."""
    assert "192.0.2.1 is no address of this machine" in run.refusal("up", "--host", "192.0.2.1")


def test_a_data_directory_that_cannot_be_written(run: Runner, tmp_path: Path) -> None:
    """Before anything is started."""
    (tmp_path / "file").write_text("")
    assert "cannot be written" in run.refusal("up", "--data-dir", str(tmp_path / "file" / "data"))


def test_a_mistake_in_queues_yaml(run: Runner, tmp_path: Path) -> None:
    """The message names the line."""
    (tmp_path / "queues.yaml").write_text("version: 1\npools:\n  chat:\n    queue: chat\n    devices: [gpu]\n")
    text = run.refusal("up")
    assert "queues.yaml:5: pool chat: device 'gpu' is unknown" in text
    assert "doctor" in text


def test_a_broker_that_does_not_answer(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has host and port, not the password."""
    monkeypatch.setenv("REEF_REDIS_URL", f"redis://:hunter2@127.0.0.1:{broker.free_port()}/0")
    text = run.refusal("up")
    assert "The broker of REEF_REDIS_URL (redis://***@127.0.0.1:" in text
    assert "unset REEF_REDIS_URL" in text
    assert "hunter2" not in text


def test_a_broker_url_that_is_none(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not a traceback of the client library."""
    monkeypatch.setenv("REEF_REDIS_URL", "localhost:6379")
    assert "must specify one of the following schemes" in run.refusal("up")


def test_a_database_that_does_not_answer(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the URL without its password; the broker that was started is gone afterwards."""
    monkeypatch.setenv("REEF_DATABASE_URL", f"postgresql://reef:hunter2@127.0.0.1:{broker.free_port()}/reef")
    text = run.refusal("up")
    assert "postgresql://***@127.0.0.1:" in text
    assert "hunter2" not in text


def test_a_database_of_another_kind(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message says which kinds there are."""
    monkeypatch.setenv("REEF_DATABASE_URL", "mysql://localhost/reef")
    assert "use sqlite:/// or postgresql://" in run.refusal("up")


def test_a_model_file_that_is_not_there(run: Runner, tmp_path: Path) -> None:
    """A path is checked before anything is started."""
    assert f"There is no model file {tmp_path}/no.gguf" in run.refusal("up", "--model", str(tmp_path / "no.gguf"))


def test_a_setting_that_cannot_be_used(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable."""
    monkeypatch.setenv("REEF_PORT", "eighty")
    assert "REEF_PORT is 'eighty'" in run.refusal("up")


def test_a_wrong_command_line_is_status_2(run: Runner) -> None:
    """Usage errors are told apart from things that are wrong with the machine."""
    assert run("up", "--port", "0").exit_code == 2
    assert run("worker", "--device", "cpu").exit_code == 2
    assert run("unknown").exit_code == 2


def test_parts_that_run_alone_need_a_broker(run: Runner) -> None:
    """`web`, `worker`, `sweeper` and `flower` say which setting is missing."""
    for arguments in (["web"], ["gateway"], ["worker", "--pool", "chat"], ["sweeper"], ["flower"], ["alive"]):
        assert "REEF_REDIS_URL is not set" in run.refusal(*arguments)


def test_status_of_nothing(run: Runner, tmp_path: Path) -> None:
    """Exit status 1, so that scripts can ask."""
    assert f"Coral Reef does not run in {tmp_path}/data. Start it: coral-reef up" in run.refusal("status")
