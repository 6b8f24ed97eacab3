"""Chat over gRPC: a run as a stream, resumed, stopped, of several personas, refused."""

from __future__ import annotations

import contextlib
import sqlite3
from typing import TYPE_CHECKING

import grpc
import pytest
from grpc import StatusCode
from grpc_server import Caller, Served, kinds, refused, text, until, until_quiet

from app.grpc_api.generated import coral_reef_pb2 as pb

if TYPE_CHECKING:
    from played_device import Stage


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

    until_quiet(served)  # another test's calls may be ending still
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
    events = [next(call)]
    while {event.persona_id for event in events} != {"alice", "nobody", "bob"}:
        events.append(next(call))
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
