"""`coral-reef plan` as a person meets it, and the document that shows what it prints."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from cli.main import main
from reef.planning.devices import parse_devices
from reef.planning.models import DEFAULT, SMOLLM2
from reef.planning.verdict import Targets, judge
from reef.records.database import Database, migrate
from reef.records.tables import jobs
from reef.settings import Settings

DOCUMENT = Path(__file__).parents[3] / "docs" / "planning.md"
PICTURE = DOCUMENT.parent / "images" / "plan.svg"


@pytest.fixture(autouse=True)
def own_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No setting from outside, and a data directory in which nothing has run."""
    for name in Settings.__struct_fields__:
        monkeypatch.delenv(f"REEF_{name.upper()}", raising=False)
    monkeypatch.setenv("REEF_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def plan(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["plan", *arguments])


def test_the_document_shows_what_the_command_prints(tmp_path: Path) -> None:
    """docs/planning.md has the default plan to the letter, and its picture; both fit 100 columns."""
    result = plan("--svg", str(tmp_path / "plan.svg"))
    assert result.exit_code == 0
    printed = [line.rstrip() for line in result.output.strip().splitlines()]
    shown = re.search(r"<!-- coral-reef plan -->\n```text\n(.*?)\n```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert shown[1].splitlines() == printed, "run: coral-reef plan --svg docs/images/plan.svg, and paste what it prints"
    assert max(map(len, printed)) <= 100
    assert (tmp_path / "plan.svg").read_text() == PICTURE.read_text()


def test_the_picture_can_be_read_by_everybody() -> None:
    """It is valid XML, says in words what it shows, has a title for each mark, and follows light and dark."""
    root = ET.fromstring(PICTURE.read_text())
    space = "{http://www.w3.org/2000/svg}"
    assert root.attrib["role"] == "img"
    assert root.findtext(f"{space}title")
    assert "SmolLM2-135M on edgetpu:96" in (root.findtext(f"{space}desc") or "")
    assert "prefers-color-scheme: dark" in (root.findtext(f"{space}style") or "")
    marks = [node for node in root.iter() if (node.get("class") or "").startswith("mark ") and len(node)]
    titles = [node.findtext(f"{space}title") or "" for node in marks]
    # three in the legend; six models, two sets, three strategies, two panels
    assert len(titles) == 3 + 6 * 2 * 3 * 2
    assert "7B, pipeline on edgetpu:96: 5.86" in titles


def test_the_specification_is_judged_by_its_own_figures() -> None:
    """No model of the table reaches its figures on 48 or 96 Edge TPUs; the default model would, with software."""
    for devices in ("edgetpu:48", "edgetpu:96"):
        of_table = judge(parse_devices(devices), list(DEFAULT), Targets(), 200)
        answers = {line.target.partition(",")[0]: line.answer for line in of_table}
        assert set(answers.values()) == {"no", "yes"}
        assert answers["retrieval"] == answers["documents indexed in an hour"] == "yes"
        small = judge(parse_devices(devices), [SMOLLM2], Targets(), 200)
        assert {line.answer for line in small[:5]} == {"physics only"}


def test_targets_of_ones_own_change_the_verdict(tmp_path: Path) -> None:
    """A file with softer targets; one that is none is told with its name and the names there are."""
    path = tmp_path / "soft.yaml"
    path.write_text("{ttft_s: 30, cluster_tokens_per_s: 0.1, token_s: 60, tokens_per_s: 1, embeddings_per_s: 10}")
    made = json.loads(plan("7B", "--targets", str(path), "--runs", "1", "--devices", "edgetpu:96", "--json").output)
    answers = [line["answer"] for line in made["judgements"]]
    assert answers[:4] == ["physics only"] * 4
    path.write_text("{patience_s: 3}")
    result = plan("7B", "--targets", str(path))
    assert result.exit_code == 1
    assert re.search(r"soft\.yaml.*patience_s.*Expected a mapping of some of ttft_s", result.output, re.DOTALL)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nine"], "'nine' is neither a file nor one of 1B"),
        (["0B"], "'0B' is no size of a model that can be planned: give a number of billions of parameters from 0.001B"),
        (["--devices", "tpu:3"], "'tpu:3' names no devices"),
        (["--load", "talkers=3"], "'talkers=3': expected NAME=VALUE"),
        (["--load", "reply=-3"], "load: reply=-3: expected a number, 1 or more."),
        (["--load", "conversations=0"], "conversations=0: expected a whole number from 1 to 10,000 or none."),
        (["--load", "think_s=nan"], "load: think_s=nan: expected a number, 0 or more."),
        (["--load", "think_s=inf"], "load: think_s=inf: expected a number, 0 or more."),
        (["--load", "turns_per_s=x"], "turns_per_s=x: expected a number above 0 or none."),
        (["--load", "personas=none"], "personas=none: expected a whole number from 1 to 1,000."),
        (["--load", "lengths=long"], "lengths=long: expected one of exponential, fixed, lognormal."),
        (["--targets", "absent.yaml"], "absent.yaml cannot be read"),
        (["MiniLM-L6", "--devices", "cpu:2"], "planned for Edge TPUs only"),
        (["7B", "--runs", "1", "--svg", "/nowhere/plan.svg"], "/nowhere/plan.svg cannot be written"),
        (["--devices", "here:2"], "No reef has run in"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], message: str) -> None:
    """A sentence that says what and what is expected; exit status 1 and no traceback."""
    result = plan(*arguments)
    assert result.exit_code == 1
    assert message in result.output


def test_the_order_of_the_specification_is_kept_for_a_cpu() -> None:
    """One CPU device: no pipeline and no devices for ten personas, and the table says why."""
    result = plan("SmolLM2-135M", "--devices", "cpu:2", "--runs", "2", "--load", "conversations=8,think_s=2")
    assert result.exit_code == 0
    assert re.search(r"dynamic +1×1", result.output)
    assert "only models compiled for Edge TPUs can be cut into segments" in " ".join(result.output.split())
    assert "Targets" not in result.output


def test_encoders_and_compiled_networks_have_a_table_of_their_own() -> None:
    """No tokens per second is invented for a model that writes none."""
    result = plan("MiniLM-L6", "E5-large", "--devices", "edgetpu:8")
    assert result.exit_code == 0
    assert "MiniLM-L6" in result.output
    assert "Strategies" not in result.output


def test_a_plan_with_this_machines_own_figures(own_directory: Path) -> None:
    """After some chats `here:N` plans with the pace the ledger shows; before, it says what to do."""
    url = f"sqlite:///{own_directory / 'data' / 'reef.db'}"
    (own_directory / "data").mkdir()
    migrate(url)
    assert "has 0 whole replies" in plan("--devices", "here:1").output
    database = Database(url)
    with database.write() as connection:
        for number in range(12):
            began = 1_000_000.0 + 10 * number
            values = {"task": "chat", "pool": "chat", "payload": "", "state": "done", "owner": "chat-cpu"}
            times = {"created_at": began, "started_at": began, "finished_at": began + 5.2, "deadline_at": began + 60}
            result = '{"usage": {"prompt": 50, "completion": 101}, "metrics": {"first_token_s": 0.2}}'
            row = {"id": str(number), "attempts": 1, "attempts_max": 3, "result": result}
            connection.execute(jobs.insert().values(values | times | row))
    database.dispose()
    made = json.loads(plan("--devices", "here:2", "--runs", "1", "--json").output)
    (need,) = made["needs"]
    assert need["model"] == "SmolLM2-135M"
    assert need["token_s"] == pytest.approx(0.05, rel=0.02)
    assert need["copies"] == 2
