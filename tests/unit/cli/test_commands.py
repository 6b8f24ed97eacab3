"""The small commands: keys, config show, doctor. They answer in words a person can act on and hide what is secret."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from cli import checks, machine, services
from cli.config import public_text
from cli.main import main
from cli.options import without_password
from reef.access import verify_key
from reef.records.database import Database
from reef.settings import Settings
from reef.topology import load_topology
from workers import broker


@pytest.fixture
def data_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A reef of its own: data directory, free port, a queues.yaml without devices."""
    (tmp_path / "queues.yaml").write_text("version: 1\npools:\n  chat: {queue: chat, devices: []}\n")
    for name in Settings.__struct_fields__:
        monkeypatch.delenv(f"REEF_{name.upper()}", raising=False)
    monkeypatch.setenv("REEF_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setenv("REEF_QUEUES_FILE", str(tmp_path / "queues.yaml"))
    monkeypatch.setenv("REEF_PORT", str(broker.free_port()))
    return tmp_path / "data"


def coral_reef(*arguments: str) -> Result:
    """Run a command in this process."""
    return CliRunner().invoke(main, list(arguments))


@pytest.mark.parametrize("module", ["cli", "cli.main"])
def test_both_modules_are_the_command(module: str) -> None:
    """`python -m` with either does what it is told; neither does nothing and calls that success."""
    argv, root = [sys.executable, "-m", module, "nonsense"], Path(__file__).parents[3]
    asked = subprocess.run(argv, cwd=root, capture_output=True, text=True, check=False)
    assert asked.returncode == 2
    assert "Usage: coral-reef" in asked.stderr
    assert "No such command 'nonsense'" in asked.stderr


def test_a_key_is_shown_once_and_can_be_revoked(data_dir: Path) -> None:
    """The text of a key is nowhere after its creation; a revoked key opens nothing."""
    made = coral_reef("keys", "create", "laptop")
    secret = made.stdout.strip()
    database = Database(f"sqlite:///{data_dir / 'reef.db'}")
    key = verify_key(database, secret)
    assert key is not None
    assert key.name == "laptop"
    listed = coral_reef("keys", "list").output
    assert key.id in listed
    assert "laptop" in listed
    assert secret not in listed
    assert secret.encode() not in (data_dir / "reef.db").read_bytes()
    assert coral_reef("keys", "revoke", key.id).exit_code == 0
    assert verify_key(database, secret) is None
    database.dispose()
    again = coral_reef("keys", "revoke", "nonsense")
    assert (again.exit_code, "There is no API key nonsense" in again.output) == (1, True)


@pytest.mark.usefixtures("data_dir")
def test_config_show_lists_every_setting_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every variable is there, with where its value comes from."""
    monkeypatch.setenv("REEF_REMOTE_API_KEY", "sk-hunter2")
    monkeypatch.setenv("REEF_REDIS_URL", "redis://:hunter2@broker:6379/0")
    output = coral_reef("config", "show").output
    for name in Settings.__struct_fields__:
        assert f"REEF_{name.upper()}" in output
    assert "hunter2" not in output
    assert re.search(r"REEF_REDIS_URL\s+redis://\*\*\*@broker:6379/0\s+set", output)
    assert re.search(r"REEF_HOST\s+127.0.0.1\s+default", output)


@pytest.mark.usefixtures("data_dir")
def test_bad_settings_and_mistyped_names_are_findings(monkeypatch: pytest.MonkeyPatch) -> None:
    """The doctor says what would stop the start; a name that is read by nobody is told by every look."""
    monkeypatch.setenv("REEF_PRT", "8081")
    assert findings(coral_reef("doctor", "--json"))["settings"]["verdict"] == "warning"
    assert "Is REEF_PORT meant?" in coral_reef("config", "show").stderr
    monkeypatch.setenv("REEF_LOG_LEVEL", "loud")
    result = coral_reef("doctor", "--json")
    assert (result.exit_code, list(findings(result))) == (1, ["settings"])
    assert "REEF_LOG_LEVEL is 'loud'" in findings(result)["settings"]["text"]


def test_secrets_are_hidden_in_settings() -> None:
    """A key says only that it is set; a switch is no key."""
    assert public_text("remote_api_key", "sk-1") == "(set, not shown)"
    assert public_text("remote_api_key", "") == ""
    assert public_text("require_api_key", value=True) == "True"
    assert without_password("redis://:p@ss@host/0") == "redis://***@host/0"


def findings(result: Result) -> dict[str, dict[str, str]]:
    """The checks of `doctor --json` by name."""
    return {check["name"]: check for check in json.loads(result.output)["checks"]}


@pytest.mark.usefixtures("data_dir")
def test_doctor_finds_this_machine_fit() -> None:
    """On a machine that passes these tests nothing is bad, and the exit status says so."""
    result = coral_reef("doctor", "--json")
    assert [check for check in findings(result).values() if check["verdict"] == "bad"] == []
    assert (result.exit_code, json.loads(result.output)["ok"]) == (0, True)
    assert findings(result)["queues.yaml"]["verdict"] == "warning"
    assert coral_reef("doctor").output.rstrip().endswith("Everything is in order.")


def test_doctor_says_what_is_wrong_and_what_to_do(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Several things wrong at once are all found; each has an advice; the exit status is 1."""
    (data_dir.parent / "queues.yaml").write_text("version: 1\npools:\n  chat: {queue: Chat!}\n")
    data_dir.write_text("a file where a directory should be")
    monkeypatch.setenv("REEF_REDIS_URL", f"redis://:hunter2@127.0.0.1:{broker.free_port()}/0")
    monkeypatch.setenv("REEF_DATABASE_URL", f"postgresql://reef:hunter2@127.0.0.1:{broker.free_port()}/reef")
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setenv("REEF_PORT", str(server.getsockname()[1]))
        result = coral_reef("doctor", "--json")
    bad = {name for name, check in findings(result).items() if check["verdict"] == "bad"}
    assert bad >= {"queues.yaml", "data directory", "broker", "database", "port"}
    assert all(findings(result)[name]["advice"] for name in bad)
    assert "queues.yaml:3" in findings(result)["queues.yaml"]["text"]
    assert "hunter2" not in result.output
    assert result.exit_code == 1


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("REEF_DATABASE_URL", "postgresql://me:hunter2@127.0.0.1:{port}/reef", "The database of REEF_DATABASE_URL ("),
        ("REEF_DATABASE_URL", "postgresql+asyncpg://127.0.0.1/reef", "The database of REEF_DATABASE_URL ("),
        ("REEF_REDIS_URL", "redis://:hunter2@127.0.0.1:{port}/0", "The broker of REEF_REDIS_URL ("),
        ("REEF_HOST", "192.0.2.1", "192.0.2.1 is no address of this machine"),
    ],
)
def test_up_and_doctor_say_what_is_missing_outside_in_the_same_words_before_anything_is_fetched(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, told: str
) -> None:
    """A model is named that nobody can fetch: whoever looked for it first would fail there."""
    (data_dir.parent / "queues.yaml").write_text(
        "version: 1\npools:\n  chat: {queue: chat, devices: [cpu], engine: auto, model: absent}\n"
    )
    monkeypatch.setenv(variable, value.format(port=broker.free_port()))
    started = coral_reef("up", "--no-flower")
    assert (started.exit_code, "hunter2" in started.output, "Traceback" in started.output) == (1, False, False)
    assert f"Error: {told}" in started.output
    assert any(check["text"].startswith(told) for check in findings(coral_reef("doctor", "--json")).values())


@pytest.mark.parametrize(
    ("text", "verdict", "says"),
    [
        (
            "  chat:\n    queue: chat\n    devices: [pci:0]\n",
            "bad",
            ":5: pool chat: pci:0: No engine of pool chat uses an",
        ),
        (
            "  chat: {queue: chat, devices: [cpu]}\n  tools:\n    queue: t\n    devices: [cpu]\n",
            "bad",
            "serves pool tools",
        ),
        (
            "  chat: {queue: chat}\nallocation: {strategy: dedicated, devices: [cpu, 'usb:0']}\n",
            "bad",
            ":4: allocation: no pool is for usb:0",
        ),
        (
            "  chat: {queue: chat}\n  media: {queue: m}\nallocation: {strategy: dedicated, devices: [cpu, 'usb:0']}\n",
            "warning",
            "nothing to do for usb:0",
        ),
        (
            "  chat: {queue: chat, devices: [cpu, 'cuda:0', remote]}\n  media: {queue: m, devices: [usb:0]}\n",
            "good",
            "2 p",
        ),
    ],
)
def test_the_doctor_says_what_a_device_cannot_do(tmp_path: Path, text: str, verdict: str, says: str) -> None:
    """A device under a pool that its kind cannot serve, or with nothing to do: told with the line, before any start."""
    path = tmp_path / "queues.yaml"
    path.write_text(f"version: 1\npools:\n{text}", encoding="utf-8")
    found = checks._queues(Settings(queues_file=path))
    assert (found.verdict, says in found.text) == (verdict, True), found.text


def test_a_worker_is_named_by_its_pool_or_by_what_a_strategy_gives_out(tmp_path: Path) -> None:
    """`worker --device` finds a device of the pool, or without --pool one of the allocation, and says what there is."""
    path = tmp_path / "queues.yaml"
    path.write_text(
        "version: 1\npools:\n  chat: {queue: chat, devices: [cpu, 'pci:9@alpha']}\n"
        "allocation: {strategy: dynamic, devices: ['pci:0-1', 'pci:0@alpha'], dynamic: {hot: 0}}\n",
        encoding="utf-8",
    )
    topology = load_topology(path)
    settings = Settings(queues_file=path, machine="alpha")

    def nodes(pool: str | None, device: str | None) -> list[str]:
        return [post.node for post in services._posts(settings, topology, pool, device)]

    assert nodes(None, "pci:1") == ["pci-1"]
    assert nodes(None, "pci:0@alpha") == ["pci-0.alpha"]
    assert nodes("chat", "pci:9") == ["chat-pci-9.alpha"]
    assert nodes(None, None) == ["chat-pci-9.alpha", "pci-0.alpha"], "a machine that is named serves its own"
    with pytest.raises(click.UsageError, match="the allocation has no device 'cpu'"):
        nodes(None, "cpu")
    given = next(post for post in machine.all_posts(topology) if post.node == "pci-1")
    spec = machine.worker_spec(given, {}, lambda _report: None)
    assert "--pool" not in spec.argv
    assert [pool.name for pool in machine.local_pools(topology, "beta")] == ["chat"]
