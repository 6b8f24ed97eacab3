"""Messages written by other versions are still read; messages this version writes have the promised shape.

A golden file is never edited: a changed message gets another file beside it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from reef.contracts import events, frames, jobs, nodes

GOLDEN = Path(__file__).parent / "golden"
KINDS = {
    "chat_job": jobs.ChatJob,
    "completion_job": jobs.CompletionJob,
    "embed_job": jobs.EmbedJob,
    "embed_texts_job": jobs.EmbedTextsJob,
    "fetch_model_job": jobs.FetchModelJob,
    "ground_job": jobs.GroundJob,
    "index_job": jobs.IndexJob,
    "inference_job": jobs.InferenceJob,
    "job_hint": jobs.JobHint,
    "parse_job": jobs.ParseJob,
    "query_job": jobs.QueryJob,
}


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*_job*.json")) + sorted(GOLDEN.glob("job_hint*.json")), ids=str)
def test_jobs_of_every_version_are_read(path: Path) -> None:
    """An old worker reads a new job and a new worker an old one: unknown fields are ignored, new ones have defaults."""
    kind = KINDS[path.stem.rpartition(".")[0]]
    job = msgspec.json.decode(path.read_bytes(), type=kind)
    written = json.loads(msgspec.json.encode(job))
    golden = json.loads(path.read_text(encoding="utf-8"))
    assert {name: golden[name] for name in written if name in golden} == {
        name: value for name, value in written.items() if name in golden
    }


def test_every_kind_of_job_has_a_golden_file() -> None:
    """A new kind of job is held to what it was when it was made."""
    assert set(jobs.JOBS) <= set(KINDS.values())
    assert {path.stem.rpartition(".")[0] for path in GOLDEN.glob("*_job.*.json")} == set(KINDS) - {"job_hint"}


def test_the_specification_s_client_frame_is_read() -> None:
    """The very object of the specification."""
    frame = frames.decode_frame((GOLDEN / "specification_chat_frame.json").read_bytes())
    assert frame == frames.ChatFrame(persona_id="alice", message="Hello!", session_id="abc123", stream=True)


def test_the_specification_s_server_events_are_written() -> None:
    """Each event of the specification is contained, field by field, in what we send."""
    lines = (GOLDEN / "specification_events.jsonl").read_text(encoding="utf-8").splitlines()
    made = [
        events.Token(content="Hi"),
        events.Done(usage=events.Usage(15, 3), message_id="m"),
        events.Typing(persona_id="bob"),
        events.Emotion(persona_id="alice", state="happy"),
        events.ToolCall(tool="calculator", status="running"),
    ]
    for line, event in zip(lines, made, strict=True):
        promised = json.loads(line)
        sent = json.loads(events.encode(event))
        assert {name: sent[name] for name in promised} == promised


def test_a_citation_is_written_and_read_as_promised() -> None:
    """Clients find document, place and number under these names; an event of this version is read by the next."""
    golden = (GOLDEN / "citation_event.1.json").read_bytes()
    event = events.decode(golden)
    assert isinstance(event, events.Citation)
    assert (event.number, event.page_first, event.headings) == (2, 7, ("Berths", "Winter rules"))
    assert json.loads(events.encode(event)) == json.loads(golden)


@pytest.mark.parametrize("event_type", list(events.RunEvent.__args__), ids=lambda kind: kind.__name__)
def test_every_event_survives_the_wire(event_type: type[events.Event]) -> None:
    """Encoding and decoding gives the same event, number and run included."""
    examples = {int: 7, float: 1.5, str: "x", Literal["cited", "matched", "source"]: "source"}
    fields = {}
    for field in msgspec.structs.fields(event_type):
        if field.required:
            fields[field.name] = events.Usage(1, 2) if field.type is events.Usage else examples.get(field.type, "x")
    event = event_type(**fields, run_id="r", session_id="s", seq=1_000_001)
    assert events.decode(events.encode(event)) == event


def test_a_report_of_a_newer_worker_is_read() -> None:
    """Fields this version does not know are ignored."""
    report = nodes.decode_report((GOLDEN / "node_report.2.json").read_bytes())
    assert (report.node, report.state, report.running) == ("chat-cpu", "ready", 2)
