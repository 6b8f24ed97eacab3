"""Who is let in over gRPC, and how much is taken of whom."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from grpc_server import PATIENCE_S, Caller, Served, calling, code_of, refused, serving, text, until_quiet

from app import sse
from app.grpc_api import access, limits
from app.grpc_api.generated import coral_reef_pb2 as pb
from app.grpc_api.server import CannotListen
from reef.access import create_key, revoke_key
from reef.settings import Settings

if TYPE_CHECKING:
    from played_device import Stage


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


def every_kind(caller: Caller, metadata: tuple[tuple[str, str], ...]) -> Iterator[Callable[[], Any]]:
    """A call of each kind."""
    yield lambda: caller.chat.Stop(pb.StopRequest(run_id="none"), metadata=metadata)
    yield lambda: next(caller.personas.List(pb.ListPersonasRequest(), metadata=metadata))
    yield lambda: caller.documents.Upload(iter([]), metadata=metadata)
    stub = reflection_pb2_grpc.ServerReflectionStub(caller.channel)
    ask = reflection_pb2.ServerReflectionRequest(list_services="")
    yield lambda: next(stub.ServerReflectionInfo(iter([ask]), metadata=metadata))


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
        heard = b""
        with contextlib.suppress(ConnectionError):  # it may be hung up on before its words were read
            connection.sendall(said)
            while more := connection.recv(4096):
                heard += more
    assert not heard.startswith(b"HTTP")


def test_a_port_that_is_taken_says_what_to_do(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two servers never share a port without a word."""
    with serving(settings) as first:
        monkeypatch.setattr("grpc_server.free_port", lambda: first.port)
        with pytest.raises(CannotListen, match="REEF_GRPC_PORT"), serving(settings):
            pass
