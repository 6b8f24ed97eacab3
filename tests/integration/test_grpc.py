"""The gRPC API with a real broker and database, a generated client, and a device that is played by hand."""

from __future__ import annotations

import contextlib
import re
import socket
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import Parse
from google.protobuf.message_factory import GetMessageClass
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase
from grpc_server import ROOT, Caller, Served, calling, refused, run_documented, serving

from app import sse
from app.grpc_api import access, limits
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.server import NAMES, CannotListen
from reef.access import create_key, revoke_key
from reef.records.database import migrate
from reef.settings import Settings

if TYPE_CHECKING:
    from conftest import Answerer, Broker, Stage

PATIENCE_S = 15.0
Events = list[pb.RunEvent]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory, shared_redis: Broker, queues_text: str) -> Settings:
    directory = tmp_path_factory.mktemp("grpc")
    (directory / "queues.yaml").write_text(queues_text, encoding="utf-8")
    made = Settings(data_dir=directory, redis_url=shared_redis.url, queues_file=directory / "queues.yaml")
    migrate(made.sqlalchemy_url)
    return made


@pytest.fixture(scope="module")
def served(settings: Settings) -> Iterator[Served]:
    """One server for the tests that do not break it."""
    with serving(settings) as running:
        yield running


@pytest.fixture
def stage(settings: Settings, stage_of: Callable[[Settings], Stage]) -> Iterator[Stage]:
    """The device, played by hand, with no job left over."""
    stage = stage_of(settings)
    stage.clear()
    yield stage
    stage.clear()
    stage.database.dispose()
    stage.redis.close()


@pytest.fixture
def caller(served: Served) -> Iterator[Caller]:
    with calling(served.target) as client:
        yield client


def kinds(events: Events) -> list[str]:
    """Kinds of events, readings of the queue left out."""
    return [event.WhichOneof("event") or "" for event in events if event.seq]


def text(events: Events) -> str:
    return "".join(event.token.content for event in events)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came to that"
        time.sleep(0.005)


def until_quiet(served: Served) -> None:
    """Wait until no call hears anything any more."""
    until(lambda: not served.ask(lambda: served.reef.counts.streams_open or served.reef.relay.listening))


def test_what_is_said_is_answered_as_a_stream(caller: Caller, stage: Stage) -> None:
    """Say tells the whole run in order, each event with its number and run and ends with it; History has both."""
    call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
    first = next(call)
    assert (first.WhichOneof("event"), first.queued.position, first.queued.persona_id) == ("queued", 1, "alice")
    message_id = stage.take(first.run_id).begin().say("one ", "two ").done()
    events = [first, *call]
    assert kinds(events) == ["queued", "started", "typing", "token", "token", "done"]
    assert text(events) == "one two "
    assert {event.run_id for event in events} == {first.run_id}
    numbers = [event.seq for event in events if event.seq]
    assert numbers == sorted(set(numbers))
    done = events[-1].done
    assert (done.message_id, done.usage.completion, done.finish_reason) == (message_id, 2, "stop")
    parts = list(caller.chat.History(pb.HistoryRequest(session_id=first.session_id)))
    assert (parts[0].session.persona_id, parts[0].session.messages) == ("alice", 2)
    said = [message for part in parts for message in part.messages]
    assert [(message.role, message.content) for message in said] == [("user", "Hello!"), ("assistant", "one two ")]


def test_tokens_come_one_by_one(caller: Caller, stage: Stage) -> None:
    """A token is told when it is said, not at the end."""
    call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
    act = stage.take(next(call).run_id).begin()
    for word in ("one ", "two ", "three "):
        act.say(word)
        event = next(event for event in call if event.WhichOneof("event") == "token")
        assert event.token.content == word
    act.done()
    assert kinds(list(call)) == ["done"]


def test_a_cut_stream_goes_on_where_it_was(served: Served, caller: Caller, stage: Stage) -> None:
    """Hanging up stops nothing and leaves nothing behind; Resume tells exactly the rest, and nothing after the end."""
    call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
    heard = [next(call)]
    run_id = heard[0].run_id
    act = stage.take(run_id).begin().say("one ")
    while kinds(heard)[-1] != "token":
        heard.append(next(call))
    call.cancel()
    until_quiet(served)
    assert stage.record(run_id).state == "running"
    act.say("two ").done()
    rest = list(caller.chat.Resume(pb.ResumeRequest(run_id=run_id, after_seq=heard[-1].seq)))
    assert rest[0].resumed.after_seq == heard[-1].seq
    assert kinds(rest) == ["token", "done"]
    assert text(heard + rest) == "one two "
    assert list(caller.chat.Resume(pb.ResumeRequest(run_id=run_id, after_seq=rest[-1].seq))) == []
    again = list(caller.chat.Resume(pb.ResumeRequest(run_id=run_id)))
    assert text(again) == "one two "


def test_who_hangs_up_at_once_leaves_nothing_behind(served: Served, caller: Caller, stage: Stage) -> None:
    """A client that goes while its chat is being written down lets go of the run that is followed for it."""

    def streams() -> int:
        return served.ask(lambda: served.reef.counts.streams_open)

    path = served.settings.data_dir / "reef.db"
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")  # its thread waits for this lock
        call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
        until(lambda: streams() == 1)
        call.cancel()
        until(lambda: streams() == 0)
        assert served.ask(lambda: served.reef.relay.listening) == 1
        database.execute("ROLLBACK")
    until(lambda: len(stage.waiting()) == 1)
    until_quiet(served)
    until(lambda: not served.ask(lambda: len(served.reef.relay._topics)))


def test_the_text_may_come_in_one_piece_and_a_key_makes_one_run(caller: Caller, stage: Stage) -> None:
    """`stream` false holds the text back until the end; the same key again tells the same run."""
    ask = pb.SayRequest(persona_id="alice", message="Hello!", stream=False, idempotency_key="once")
    call = caller.chat.Say(ask)
    first = next(call)
    stage.take(first.run_id).begin().say("one ", "two ").done()
    assert kinds([first, *call]) == ["queued", "started", "typing", "token", "done"]
    again = list(caller.chat.Say(ask))
    assert {event.run_id for event in again} == {first.run_id}
    assert text(again) == "one two "


def test_a_run_is_stopped(caller: Caller, stage: Stage) -> None:
    """A waiting run stops at once and says so in its stream; stopping again is no error."""
    call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
    run_id = next(call).run_id
    state = caller.chat.Stop(pb.StopRequest(run_id=run_id))
    assert (state.run_id, state.state) == (run_id, "cancelled")
    assert kinds(list(call)) == ["stopped"]
    assert caller.chat.Stop(pb.StopRequest(run_id=run_id)).state == "cancelled"


def test_several_personas_answer_at_once(caller: Caller, stage: Stage) -> None:
    """One question, a run each, events merged and named; one that cannot be asked is told and holds nobody up."""
    ask = pb.AskRequest(persona_ids=["alice", "nobody", "bob"], message="Hello!")
    ask.session_ids["bob"] = "bobs"
    call = caller.group.Ask(ask)
    events = [next(call) for _ in range(3)]
    runs = {event.persona_id: event.event.run_id for event in events if event.event.run_id}
    assert set(runs) == {"alice", "bob"}
    failed = next(event for event in events if event.persona_id == "nobody")
    assert failed.event.error.code == "unknown_persona"
    bob, alice = stage.take(runs["bob"]).begin(), stage.take(runs["alice"]).begin()
    bob.say("b1 ")
    alice.say("a1 ")
    bob.say("b2 ").done()
    alice.say("a2 ").done()
    events += list(call)
    for persona_id, expected in (("alice", "a1 a2 "), ("bob", "b1 b2 ")):
        own = [event.event for event in events if event.persona_id == persona_id]
        assert {event.run_id for event in own} == {runs[persona_id]}
        assert (text(own), kinds(own)[-1]) == (expected, "done")
    assert {event.event.session_id for event in events if event.persona_id == "bob"} == {"bobs"}


@pytest.mark.parametrize(
    ("ask", "field"),
    [
        (pb.AskRequest(message="Hello!"), "persona_ids"),
        (pb.AskRequest(persona_ids=["alice", "alice"], message="Hello!"), "persona_ids"),
        (pb.AskRequest(persona_ids=[f"p{n}" for n in range(9)], message="Hello!"), "persona_ids"),
        (pb.AskRequest(persona_ids=["alice"], message="Hello!", session_ids={"bob": "s"}), "session_ids"),
        (pb.AskRequest(persona_ids=["alice"], message="Hello!", tokens_max=0), "tokens_max"),
        (pb.AskRequest(persona_ids=["alice"], message="Hello!", idempotency_key="k" * 64), "idempotency_key"),
    ],
)
def test_a_question_that_does_not_fit_is_asked_to_nobody(
    caller: Caller, stage: Stage, ask: pb.AskRequest, field: str
) -> None:
    """Nothing is accepted when the question as a whole is wrong."""
    with pytest.raises(grpc.RpcError) as caught:
        list(caller.group.Ask(ask))
    assert refused(caught.value) == (StatusCode.INVALID_ARGUMENT, {"code": "invalid", "field": field})
    assert stage.waiting() == []


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


def test_a_refusal_says_when_to_come_again(caller: Caller, stage: Stage) -> None:
    """A busy persona names its run; a full queue says how long to wait."""
    ask = pb.SayRequest(persona_id="alice", message="Hello!", session_id="busy")
    calls = [caller.chat.Say(ask)]
    run_id = next(calls[0]).run_id
    with pytest.raises(grpc.RpcError) as caught:
        next(caller.chat.Say(ask))
    assert refused(caught.value) == (StatusCode.FAILED_PRECONDITION, {"code": "session_busy", "run-id": run_id})
    for _ in range(7):
        calls.append(caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!")))
        next(calls[-1])
    with pytest.raises(grpc.RpcError) as caught:
        next(caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!")))
    code, said = refused(caught.value)
    assert (code, said["code"]) == (StatusCode.RESOURCE_EXHAUSTED, "pool_full")
    assert int(said["retry-after"]) >= 1
    for call in calls:
        call.cancel()


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


def test_bytes_that_are_no_message_are_refused_quietly(caller: Caller, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever sends garbage gets an answer, and the log no stack trace."""
    for raw in (b"\xff\xff\xff", b"\x0a\x02\xff\xfe"):
        call = caller.channel.unary_unary("/coral_reef.v1.Chat/Stop")
        with pytest.raises(grpc.RpcError) as caught:
            call(raw)
        assert refused(caught.value) == (StatusCode.INVALID_ARGUMENT, {"code": "bad_message"})
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


def test_a_message_has_its_limits(served: Served) -> None:
    """Neither a long message nor one that would grow when it is unpacked is taken in."""
    with calling(served.target, **{"grpc.max_send_message_length": -1}) as caller:
        with pytest.raises(grpc.RpcError) as caught:
            caller.chat.Stop(pb.StopRequest(run_id="x" * limits.MESSAGE_BYTES_MAX))
        assert refused(caught.value)[0] == StatusCode.RESOURCE_EXHAUSTED
        with pytest.raises(grpc.RpcError) as caught:
            caller.chat.Stop(pb.StopRequest(run_id="x" * 10_000), compression=grpc.Compression.Gzip)
        assert refused(caught.value)[0] == StatusCode.UNIMPLEMENTED


def test_a_piece_of_an_upload_may_be_as_long_as_is_said(served: Served) -> None:
    """Exactly 1 MiB of data is read (and, since no file was begun, refused as out of order); more is not."""
    with calling(served.target, **{"grpc.max_send_message_length": -1}) as caller:
        for size_bytes, code in ((2**20, StatusCode.INVALID_ARGUMENT), (2**20 + 64, StatusCode.RESOURCE_EXHAUSTED)):
            with pytest.raises(grpc.RpcError) as caught:
                caller.documents.Upload(iter([pb.UploadPart(data=bytes(size_bytes))]))
            assert refused(caught.value)[0] == code


def test_streams_have_a_limit(caller: Caller, stage: Stage, monkeypatch: pytest.MonkeyPatch, served: Served) -> None:
    """Beyond it a stream is refused with the time to come again, and what needs no stream is served."""
    until_quiet(served)
    monkeypatch.setattr(sse, "STREAMS_MAX", 1)
    call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
    next(call)
    with pytest.raises(grpc.RpcError) as caught:
        next(caller.chat.Say(pb.SayRequest(persona_id="bob", message="Hello!")))
    assert refused(caught.value) == (StatusCode.UNAVAILABLE, {"code": "too_many_streams", "retry-after": "1"})
    assert len(stage.waiting()) == 1
    assert list(caller.personas.List(pb.ListPersonasRequest()))
    call.cancel()


def test_a_reader_that_does_not_read_is_cut_off(served: Served, stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its run goes on, it is told so, and resumes where it was."""
    monkeypatch.setattr(access, "WRITE_TIMEOUT_S", 0.3)
    with calling(served.target, **{"grpc.http2.lookahead_bytes": 65_535, "grpc.http2.bdp_probe": 0}) as caller:
        call = caller.chat.Say(pb.SayRequest(persona_id="alice", message="Hello!"))
        heard = [next(call)]
        act = stage.take(heard[0].run_id).begin()
        for _ in range(60):
            act.say("x" * 10_000)
        until_quiet(served)
        with pytest.raises(grpc.RpcError) as caught:
            heard.extend(call)
        assert refused(caught.value) == (StatusCode.UNAVAILABLE, {"code": "slow_reader"})
        assert len(text(heard)) < 600_000
        act.done()
        heard += caller.chat.Resume(pb.ResumeRequest(run_id=heard[0].run_id, after_seq=heard[-1].seq))
    assert len(text(heard)) == 600_000


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


def every_kind(caller: Caller, metadata: tuple[tuple[str, str], ...]) -> Iterator[Callable[[], Any]]:
    """A call of each kind."""
    yield lambda: caller.chat.Stop(pb.StopRequest(run_id="none"), metadata=metadata)
    yield lambda: next(caller.personas.List(pb.ListPersonasRequest(), metadata=metadata))
    yield lambda: caller.documents.Upload(iter([]), metadata=metadata)
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    yield lambda: next(stub.ServerReflectionInfo(iter([ask]), metadata=metadata))


def code_of(call: Callable[[], Any]) -> StatusCode:
    try:
        call()
    except grpc.RpcError as error:
        return refused(error)[0]
    return StatusCode.OK


@pytest.mark.parametrize(("host", "asked"), [("0.0.0.0", False), ("127.0.0.1", True)])
def test_a_key_is_asked_for(settings: Settings, stage: Stage, host: str, asked: bool) -> None:
    """Beyond loopback, or where it was asked for, every call but health needs a key that is valid now."""
    secret, key = create_key(stage.database, "test")
    with serving(settings.changed(require_api_key=asked), host) as served, calling(served.target) as caller:
        for metadata in ((), (("authorization", "Bearer reef_wrong"),), (("authorization", secret),)):
            assert {code_of(call) for call in every_kind(caller, metadata)} == {StatusCode.UNAUTHENTICATED}
        with pytest.raises(grpc.RpcError) as caught:
            caller.chat.Stop(pb.StopRequest(run_id="none"))
        assert refused(caught.value)[1] == {"code": "key_needed"}
        good = (("authorization", f"Bearer {secret}"),)
        assert [code_of(call) for call in every_kind(caller, good)] == [
            StatusCode.NOT_FOUND,
            StatusCode.OK,
            StatusCode.INVALID_ARGUMENT,
            StatusCode.OK,
        ]
        health_pb2_grpc.HealthStub(caller.channel).Check(health_pb2.HealthCheckRequest())
        revoke_key(stage.database, key.id)


def test_connections_have_a_limit(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """One more than that is not let in; when another leaves, there is room again."""
    monkeypatch.setattr(limits, "CONNECTIONS_MAX", 2)
    with serving(settings) as served, calling(served.target) as one, calling(served.target) as two:
        for caller in (one, two):
            assert list(caller.personas.List(pb.ListPersonasRequest()))
        with calling(served.target) as three:
            ready = grpc.channel_ready_future(three.channel)
            with pytest.raises(grpc.FutureTimeoutError):
                ready.result(0.3)
            ready.cancel()
        one.channel.close()
        with calling(served.target) as four:
            assert list(four.personas.List(pb.ListPersonasRequest(), wait_for_ready=True, timeout=PATIENCE_S))


@pytest.mark.parametrize(
    "said", [b"", b"POST /coral_reef.v1.Chat/Stop HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["nothing", "http"]
)
def test_who_speaks_no_grpc_is_hung_up_on(settings: Settings, monkeypatch: pytest.MonkeyPatch, said: bytes) -> None:
    """Neither a connection that says nothing nor a browser's request is kept waiting, or does anything."""
    monkeypatch.setattr(limits, "HANDSHAKE_S", 0.2)
    with serving(settings) as served, socket.create_connection((served.host, served.port)) as connection:
        connection.settimeout(PATIENCE_S)
        connection.sendall(said)
        heard = b""
        while more := connection.recv(4096):
            heard += more
    assert not heard.startswith(b"HTTP")


def test_a_port_that_is_taken_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers never share a port without a word."""
    with serving(settings) as first:
        monkeypatch.setattr("grpc_server.free_port", lambda: first.port)
        with pytest.raises(CannotListen, match="REEF_GRPC_PORT"), serving(settings):
            pass


def test_calls_are_counted(served: Served, caller: Caller) -> None:
    """By method and outcome, for Prometheus."""

    def count(code: str) -> float:
        labels = {"method": "/coral_reef.v1.Personas/Get", "code": code}
        return served.reef.counts.registry.get_sample_value("coralreef_grpc_calls_total", labels) or 0.0

    before = {code: count(code) for code in ("OK", "NOT_FOUND")}
    expected = {code: n + 1 for code, n in before.items()}
    caller.personas.Get(pb.GetPersonaRequest(persona_id="alice"))
    assert code_of(lambda: caller.personas.Get(pb.GetPersonaRequest(persona_id="nobody"))) == StatusCode.NOT_FOUND
    until(lambda: {code: count(code) for code in before} == expected)  # a call is counted after it was answered


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
