"""`coral-reef models` without a running reef: list, import, pin, remove, and the limit of the disk cache."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result
from model_files import BadServer, gguf_bytes
from tiny_networks import dense_tflite

from cli.local_models import LocalModels
from cli.main import main
from reef.models.states import ModelView
from reef.records.database import migrate

Run = Callable[..., Result]


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """A data directory after its first start."""
    directory = tmp_path / "data"
    directory.mkdir()
    migrate(f"sqlite:///{directory / 'reef.db'}")
    return directory


@pytest.fixture
def run(data_dir: Path) -> Run:
    """Runs the command on it."""

    def call(*arguments: str, good: bool = True, **environment: str) -> Result:
        result = CliRunner().invoke(main, ["models", *arguments, "--data-dir", str(data_dir)], env=environment)
        assert (result.exit_code == 0) is good, result.output
        return result

    return call


@pytest.fixture
def server() -> object:
    server = BadServer()
    yield server
    server.close()


def row(result: Result, name: str) -> list[str]:
    """A model's line in the list."""
    return next((line.split() for line in result.output.splitlines() if line.startswith(name)), [])


def test_a_file_is_imported_listed_pinned_and_removed(run: Run, tmp_path: Path, data_dir: Path) -> None:
    """From a file of one's own to a model of the reef and back."""
    (tmp_path / "Mine.gguf").write_bytes(gguf_bytes({"general.file_type": 7, "general.license": "mit"}))
    run("import", str(tmp_path / "Mine.gguf"))
    assert row(run("list"), "mine")[-3:] == ["mit", "CACHED", "Q8_0"]
    run("pin", "mine")
    assert "(pinned)" in run("list").output
    assert "mine is pinned, so it stays" in run("remove", "mine", good=False).output
    run("pin", "mine", "--off")
    run("remove", "mine")
    assert row(run("list"), "mine") == []
    assert "no model 'mine'" in run("remove", "mine", good=False).output
    assert "no model 'mine'" in run("pin", "mine", good=False).output
    assert (tmp_path / "Mine.gguf").is_file()


def test_a_bad_file_is_refused_and_a_dropped_one_is_told(run: Run, tmp_path: Path, data_dir: Path) -> None:
    """What is no model is not imported; one that somebody put into the folder is listed as what it is."""
    (tmp_path / "page.gguf").write_text("<html>")
    assert "not a model in GGUF format" in run("import", str(tmp_path / "page.gguf"), good=False).output
    (data_dir / "models").mkdir(exist_ok=True)
    (data_dir / "models" / "half.gguf").write_bytes(gguf_bytes()[:60])
    assert "FAILED" in row(run("list"), "half")


def test_a_download_that_was_stopped_is_listed_and_removed(run: Run, data_dir: Path) -> None:
    """With what has come of how much, whether the catalogue knows the model or not."""
    folder = data_dir / "models"
    folder.mkdir(exist_ok=True)
    (part := folder / ".mine.url.part.tflite").write_bytes(bytes(3_000_000))
    part.with_name(part.name + ".json").write_text('{"url": "http://x/mine.tflite", "size_bytes": 9000000}')
    (folder / ".smollm2-135m-instruct.wheels.part.gguf").write_bytes(bytes(5_000_000))
    said = run("list")
    assert row(said, "mine")[-6:] == ["3.0", "MB", "PARTIAL", "of", "9.0", "MB"]
    assert row(said, "smollm2-135m-instruct")[-4:] == ["PARTIAL", "of", "98.4", "MB"]
    assert said.output.count("smollm2-135m-instruct") == 1
    run("remove", "mine")
    assert not list(folder.glob(".mine.url*"))
    assert row(run("list"), "mine") == []
    assert "no model 'mine'" in run("remove", "mine", good=False).output


def test_what_queues_yaml_names_stays(run: Run, tmp_path: Path, data_dir: Path) -> None:
    """The model of a pool is not removed, and not taken away for another one either."""
    queues = tmp_path / "queues.yaml"
    queues.write_text("version: 1\npools:\n  chat: {queue: chat, devices: [cpu], model: mine}\n")
    (tmp_path / "mine.gguf").write_bytes(gguf_bytes())
    run("import", str(tmp_path / "mine.gguf"), "--link")
    environment = {"REEF_QUEUES_FILE": str(queues)}
    assert "named in queues.yaml" in run("remove", "mine", good=False, **environment).output
    (data_dir / "models" / "sees_edgetpu.tflite").write_bytes(dense_tflite())
    queues.write_text(queues.read_text() + "  media: {queue: media, devices: [usb:0], model: sees}\n")
    said = run("remove", "sees_edgetpu", good=False, **environment).output
    assert "sees_edgetpu is named in queues.yaml" in said, "an Edge TPU takes this file for `sees`"


def test_pulling_makes_room(run: Run, tmp_path: Path, server: BadServer) -> None:
    """Beyond the limit the longest unused model goes, which is told; a pinned one keeps the new one out."""
    server.body = gguf_bytes(elements=1000)
    for name in ("old", "older"):
        (tmp_path / f"{name}.gguf").write_bytes(gguf_bytes(elements=1000))
        run("import", str(tmp_path / f"{name}.gguf"))
    limit = {"REEF_MODEL_CACHE_BYTES": str(2 * len(server.body) + 10)}
    pulled = run("pull", "new", "--url", server.url, **limit)
    assert "old (4 kB) was removed" in pulled.output
    assert row(run("list"), "old ") == []
    for name in ("older", "new"):
        run("pin", name)
    refused = run("pull", "newer", "--url", server.url, good=False, **limit)
    assert "new is pinned; older is pinned" in refused.output
    wrong = run("pull", "newer", "--url", server.url, "--sha256", "a" * 64, good=False)
    assert "is not what it should be" in wrong.output


def test_the_demo_model_is_marked_whether_a_reef_runs_or_not(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The running reef tells titles, the stopped one reads them from the catalogue: a person sees the same."""
    name = "smollm2-135m-instruct"
    title = row(run("list"), name)[1:5]
    view = ModelView(name=name, title=" ".join(title[:-1]), format="gguf", state="READY", where=["chat-cpu"])
    monkeypatch.setattr(LocalModels, "states", lambda _local: [msgspec.to_builtins(view)])
    listed = row(run("list"), name)
    assert listed[-1] == "chat-cpu"
    assert listed[1:5] == title
    assert title[-1] == "(demo)"
