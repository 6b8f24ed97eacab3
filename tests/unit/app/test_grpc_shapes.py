"""The proto file, the code generated from it, and the structs behind REST and WebSocket say the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from google.protobuf.descriptor import Descriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from app.api import knowledge_shapes, models
from app.api import shapes as rest
from app.grpc_api import access, group, proto
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.shapes import COMMON, read, run_event
from app.model_desk import Loading, Unloaded
from reef.contracts import events, frames, jobs, nodes, system
from reef.conversation import store as conversation
from reef.knowledge import documents, model
from reef.models import states
from reef.personas import store as personas

ROOT = Path(__file__).parents[3]

PAIRS: list[tuple[type[Message], Any, set[str]]] = [
    (pb.SayRequest, frames.ChatFrame, set()),
    (pb.StopRequest, frames.StopFrame, set()),
    (pb.RunState, rest.RunState, set()),
    (pb.Usage, events.Usage, set()),
    (pb.Metrics, events.Metrics, set()),
    (pb.Session, conversation.SessionSummary, set()),
    (pb.ActiveRun, rest.ActiveRun, set()),
    (pb.Message, conversation.Message, set()),
    (pb.AskRequest, group.Question, set()),
    (pb.PersonaDraft, personas.PersonaDraft, set()),
    (pb.Persona, personas.Persona, set()),
    (pb.AcceptedFiles, knowledge_shapes.AcceptedFiles, set()),
    (pb.AcceptedFile, knowledge_shapes.AcceptedFile, set()),
    (pb.UploadProgress, events.UploadProgress, set(COMMON)),
    (pb.DocumentChanged, events.DocumentChanged, set(COMMON)),
    (pb.ListDocumentsRequest, knowledge_shapes.DocumentQuery, set()),
    (pb.DocumentList, knowledge_shapes.DocumentList, set()),
    (pb.Document, documents.Document, set()),
    (pb.QueryRequest, knowledge_shapes.SearchRequest, set()),
    (pb.QueryFilters, jobs.QueryFilters, set()),
    (pb.QueryAnswer, knowledge_shapes.SearchAnswer, set()),
    (pb.Passage, model.Passage, set()),
    (pb.SystemStatus, system.SystemStatus, set()),
    (pb.ModelStatus, system.ModelStatus, set()),
    (pb.BetterModel, system.BetterModel, set()),
    (pb.RunCounts, system.RunCounts, set()),
    (pb.PoolStatus, system.PoolStatus, set()),
    (pb.DeviceStatus, system.DeviceStatus, set()),
    (pb.DeviceHealth, nodes.DeviceHealth, set()),
    (pb.Place, system.PlaceView, set()),
    (pb.ModelList, states.ModelsView, set()),
    (pb.Model, states.ModelView, set()),
    (pb.ModelCache, states.CacheView, set()),
    (pb.LoadModelRequest, models.LoadRequest, set()),
    (pb.LoadModelAnswer, Loading, set()),
    (pb.UnloadModelRequest, models.UnloadRequest, set()),
    (pb.UnloadModelAnswer, Unloaded, set()),
    (pb.JobsRequest, rest.JobsQuery, set()),
    (pb.JobList, rest.JobList, set()),
    (pb.Job, system.JobView, set()),
]
"""Message, struct, and fields of the struct that the message leaves out."""


def fields(message: Descriptor) -> set[str]:
    return {field.name for field in message.fields}


@pytest.mark.parametrize(("message", "struct", "left_out"), PAIRS, ids=[pair[0].__name__ for pair in PAIRS])
def test_a_message_has_the_fields_of_its_struct(message: type[Message], struct: Any, left_out: set[str]) -> None:
    """A field that is added to a struct is added to the proto too, or the test says that it is missing."""
    assert fields(message.DESCRIPTOR) == set(struct.__struct_fields__) - left_out


def test_what_may_be_absent_is_optional_in_both() -> None:
    """Where a struct has None, the message can tell absent from empty."""
    for message, struct, left_out in PAIRS:
        for field in msgspec.structs.fields(struct):
            if field.name in left_out or type(None) not in get_args(field.type):
                continue
            described = message.DESCRIPTOR.fields_by_name[field.name]
            assert described.has_presence or described.is_repeated, f"{message.__name__}.{field.name}"


def test_every_event_of_a_run_can_be_told() -> None:
    """The oneof has each kind of event under its own name, with its own fields."""
    oneof = pb.RunEvent.DESCRIPTOR.oneofs_by_name["event"]
    told = {field.name: fields(field.message_type) for field in oneof.fields}
    kinds = {
        kind.__struct_config__.tag: set(kind.__struct_fields__) - set(COMMON) for kind in get_args(events.RunEvent)
    }
    assert told == kinds


def test_an_event_arrives_as_it_was() -> None:
    """Nested values, lists and absent fields of an event come through."""
    citation = events.Citation(
        run_id="r", session_id="s", seq=7, number=1, document_id="d", name="n", chunk_id=2, start=3, end=4, score=0.5,
        headings=("One", "Two"), basis="cited",
    )  # fmt: skip
    assert MessageToDict(run_event(citation), preserving_proto_field_name=True) == {
        "run_id": "r",
        "session_id": "s",
        "seq": "7",
        "citation": {
            "number": 1, "document_id": "d", "name": "n", "chunk_id": "2", "start": "3", "end": "4", "score": 0.5,
            "headings": ["One", "Two"], "basis": "cited",
        },
    }  # fmt: skip
    silent = run_event(events.Stopped(usage=events.Usage(1, 0)))
    assert (silent.WhichOneof("event"), silent.stopped.HasField("message_id")) == ("stopped", False)
    assert run_event(events.Emotion(persona_id="", state="")).WhichOneof("event") == "emotion"


def test_what_a_request_leaves_out_has_the_structs_default() -> None:
    """Absent is not empty: a limit that was not set is 100, one that was set to zero is refused."""
    assert read(pb.ListDocumentsRequest(query="x"), knowledge_shapes.DocumentQuery).limit == 100
    with pytest.raises(msgspec.ValidationError, match="limit"):
        read(pb.ListDocumentsRequest(limit=0), knowledge_shapes.DocumentQuery)
    filters = pb.QueryFilters(document_ids=["a"])
    found = read(pb.QueryRequest(query="x", filters=filters), knowledge_shapes.SearchRequest)
    assert (found.k, found.stores, found.filters.document_ids) == (10, None, ["a"])


@pytest.mark.parametrize(
    ("ask", "kind"),
    [
        (pb.ResumeRequest(run_id="r", after_seq=-5), frames.ResumeFrame),
        (pb.WatchUploadRequest(upload_id="u", after_seq=-5), frames.SubscribeFrame),
    ],
)
def test_a_refusal_names_the_field_of_the_message(ask: Message, kind: Any) -> None:
    """Where the struct calls it otherwise too; what is good arrives under the struct's name."""
    with pytest.raises(msgspec.ValidationError, match=r"`\$\.after_seq`"):
        read(ask, kind, last_seq="after_seq")
    ask.after_seq = 5  # type: ignore[attr-defined]
    assert read(ask, kind, last_seq="after_seq").last_seq == 5


def test_the_generated_code_is_that_of_the_proto(tmp_path: Path) -> None:
    """`make proto` changes nothing."""
    assert proto.generate(ROOT, tmp_path) == 0
    made = sorted((tmp_path / proto.PACKAGE).iterdir())
    assert len(made) == 4
    for path in made:
        assert path.read_text() == (ROOT / proto.PACKAGE / path.name).read_text(), "run `make proto`"


def test_every_refusal_has_a_status() -> None:
    """No status of a refusal becomes INTERNAL by being forgotten, but for what is one."""
    from app.openapi import REASONS

    web_only = {405, 412, 415}
    assert {status for status in REASONS if status >= 400} - web_only - {500} <= set(access.CODES)
