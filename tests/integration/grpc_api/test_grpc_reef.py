"""Personas and the reef itself over gRPC, what describes the API, and the programs of docs/grpc.md."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import Parse
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_server import PATIENCE_S, ROOT, Caller, Served, calling, code_of, refused, run_documented, serving, until

from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.server import NAMES
from reef.settings import Settings

if TYPE_CHECKING:
    from played_device import Answerer, Stage


def test_personas_are_made_changed_and_deleted(caller: Caller) -> None:
    """The same rules as REST: ids from names, defaults, a zero that was set is a zero."""
    assert {"alice", "bob"} <= {persona.id for persona in caller.personas.List(pb.ListPersonasRequest())}
    made = caller.personas.Create(pb.PersonaDraft(name="Greta the Pilot", system_prompt="You fly."))
    assert (made.id, made.temperature, made.builtin) == ("greta-the-pilot", 0.7, False)
    draft = pb.PersonaDraft(name="Greta", temperature=0.0)
    changed = caller.personas.Update(pb.UpdatePersonaRequest(persona_id=made.id, draft=draft))
    assert (changed.name, changed.temperature, changed.system_prompt) == ("Greta", 0.0, "")
    assert caller.personas.Get(pb.GetPersonaRequest(persona_id=made.id)) == changed
    caller.personas.Delete(pb.DeletePersonaRequest(persona_id=made.id))
    with pytest.raises(grpc.RpcError) as caught:
        caller.personas.Get(pb.GetPersonaRequest(persona_id=made.id))
    assert refused(caught.value) == (StatusCode.NOT_FOUND, {"code": "unknown_persona"})


@pytest.mark.parametrize(
    ("draft", "said"),
    [
        (pb.PersonaDraft(), {"code": "invalid", "field": "name"}),
        (pb.PersonaDraft(name="Nan", temperature=float("nan")), {"code": "invalid", "field": "temperature"}),
        (pb.PersonaDraft(name="Hot", temperature=2.5), {"code": "invalid", "field": "temperature"}),
        (pb.PersonaDraft(name="a\0b"), {"code": "nul"}),
    ],
)
def test_what_does_not_fit_names_its_field(caller: Caller, draft: pb.PersonaDraft, said: dict[str, str]) -> None:
    """Validation is that of REST, with what JSON could not carry refused too."""
    with pytest.raises(grpc.RpcError) as caught:
        caller.personas.Create(draft)
    assert refused(caught.value) == (StatusCode.INVALID_ARGUMENT, said)


def test_the_reef_says_how_it_stands(caller: Caller, stage: Stage) -> None:
    """Status, devices, models and jobs, as REST tells them."""
    stage.report()
    status = caller.system.Status(pb.StatusRequest())
    assert (status.broker, status.database, status.pools[0].name) == ("ok", "sqlite", "chat")
    nodes = caller.system.Nodes(pb.NodesRequest()).nodes
    assert {(node.node, node.state) for node in nodes if node.pool == "chat"} == {("chat-simulated", "ready")}
    assert caller.system.Models(pb.ModelsRequest()).models
    call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
    run_id = next(call).run_id
    jobs = caller.system.Jobs(pb.JobsRequest(state="queued"))
    assert ([job.id for job in jobs.jobs], jobs.total) == ([run_id], 1)
    call.cancel()
    with pytest.raises(grpc.RpcError) as caught:
        caller.system.Jobs(pb.JobsRequest(pool="nowhere"))
    assert refused(caught.value) == (StatusCode.NOT_FOUND, {"code": "unknown_pool"})
    with pytest.raises(grpc.RpcError) as caught:
        caller.system.LoadModel(pb.LoadModelRequest(model="none-of-ours", pool="nowhere"))
    assert refused(caught.value) == (StatusCode.NOT_FOUND, {"code": "unknown_pool"})
    with pytest.raises(grpc.RpcError) as caught:
        caller.system.UnloadModel(pb.UnloadModelRequest(model="x" * 201))
    assert refused(caught.value) == (StatusCode.INVALID_ARGUMENT, {"code": "invalid", "field": "model"})


def test_reflection_describes_what_is_served(caller: Caller) -> None:
    """A client that has no proto file finds every service and its messages."""
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(caller.channel).ServerReflectionInfo(iter([ask]))
    names = {service.name for service in answer.list_services_response.service}
    assert names == {*NAMES, "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"}
    pool = DescriptorPool(ProtoReflectionDescriptorDatabase(caller.channel))
    methods = pool.FindServiceByName("coral_reef.v1.Chat").methods_by_name
    assert set(methods) == {"Say", "Resume", "Stop", "History"}
    assert methods["Say"].output_type.fields_by_name["token"].message_type.full_name == "coral_reef.v1.Token"


def test_health_says_what_readyz_says(settings: Settings, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not serving without a worker, serving with one; a watcher hears it, and that the server stops."""
    monkeypatch.setattr("app.grpc_api.health.LOOK_EVERY_S", 0.05)
    with serving(settings) as served, calling(served.target) as caller:
        health = health_pb2_grpc.HealthStub(caller.channel)
        ask = health_pb2.HealthCheckRequest(service="coral_reef.v1.Chat")
        watch = health.Watch(ask)
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        stage.report()
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        assert health.Check(health_pb2.HealthCheckRequest()).status == health_pb2.HealthCheckResponse.SERVING
        call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
        run_id = next(call).run_id
        stopping = threading.Thread(target=served.stop)
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        assert refused(caught.value) == (StatusCode.UNAVAILABLE, {"code": "shutting_down", "retry-after": "1"})
        watch.cancel()
        stopping.join(PATIENCE_S)
        assert stage.record(run_id).state == "queued"


def test_calls_are_counted(served: Served, caller: Caller) -> None:
    """By method and outcome, for Prometheus."""

    def count(method: str, code: str) -> float:
        labels = {"method": f"/coral_reef.v1.Personas/{method}", "code": code}
        return served.reef.counts.registry.get_sample_value("coralreef_grpc_calls_total", labels) or 0.0

    before = count("Get", "OK")
    caller.personas.Get(pb.GetPersonaRequest(persona_id="alice"))
    assert count("Get", "OK") == before + 1
    unknown = pb.DeletePersonaRequest(persona_id="nobody")
    assert code_of(lambda: caller.personas.Delete(unknown)) == StatusCode.NOT_FOUND
    until(
        lambda: count("Delete", "NOT_FOUND") == 1
    )  # a refusal is counted after it was sent; no other test is refused this


def test_the_documents_program_runs(
    served: Served, settings: Settings, stage: Stage, answerer_of: Callable[[Stage], Answerer], tmp_path: Path
) -> None:
    """docs/grpc.md: a client made of the proto alone says something and hears the reply."""
    answerer = answerer_of(stage)
    try:
        assert run_documented(0, served.target, tmp_path).strip() == answerer.text
    finally:
        answerer.close()


def test_the_documents_commands_fit() -> None:
    """docs/grpc.md: every grpcurl line names a service or method, and its JSON is that method's request."""
    text = (ROOT / "docs" / "grpc.md").read_text(encoding="utf-8")
    lines = re.findall(r"^    grpcurl -plaintext (?:-d '(.*)' )?127\.0\.0\.1:8090 (.*)$", text, re.MULTILINE)
    assert len(lines) == 5
    for body, method in lines:
        if body:
            service, _, name = method.partition("/")
            described = pb.DESCRIPTOR.services_by_name[service.removeprefix("coral_reef.v1.")].methods_by_name[name]
            Parse(body, GetMessageClass(described.input_type)())
