"""Every failure of the domain has one meaning for clients."""

from __future__ import annotations

import msgspec
import pytest
import redis
import sqlalchemy.exc

from app.api.knowledge_shapes import SearchRequest
from app.api.shapes import ChatRequest, EditRequest, MemoryDraft, SessionChange
from app.grpc_api.group import Question
from app.listener import Closed, TooMany
from app.refusals import BrokerAway, field_error, refusal_of
from reef.contracts.frames import ChatFrame
from reef.conversation.store import DeletedSession, UnknownMessage, UnknownSession
from reef.conversation.turns import NotEditable, PoolClosed
from reef.ledger import LaneBusy, PoolFull, UnknownJob
from reef.personas.store import PersonaDraft, PersonaLimit, UnknownPersona
from tasks.dispatch import BrokerDown


@pytest.mark.parametrize(
    ("error", "status", "code", "comes_again"),
    [
        (UnknownPersona("x"), 404, "unknown_persona", False),
        (UnknownSession("x"), 404, "unknown_session", False),
        (DeletedSession("x"), 410, "session_deleted", False),
        (UnknownMessage("x"), 404, "unknown_message", False),
        (UnknownJob("x"), 404, "unknown_run", False),
        (NotEditable("no"), 409, "not_editable", False),
        (PersonaLimit("there are 1000 personas"), 409, "limit_reached", False),
        (LaneBusy("run1"), 409, "session_busy", False),
        (PoolFull("chat", 256, 12.0), 429, "pool_full", True),
        (PoolFull("chat", 256, None), 429, "pool_full", True),
        (TooMany("enough"), 429, "too_many", True),
        (PoolClosed("no device"), 503, "no_device", True),
        (BrokerDown("x"), 503, "broker_down", True),
        (BrokerAway("x"), 503, "broker_down", True),
        (redis.ConnectionError("x"), 503, "broker_down", True),
        (sqlalchemy.exc.OperationalError("s", {}, Exception("database is locked")), 503, "database_down", True),
        (Closed(), 503, "shutting_down", True),
    ],
)
def test_each_failure_has_its_answer(error: Exception, status: int, code: str, *, comes_again: bool) -> None:
    """Status and code are fixed; what passes by itself says when to come again."""
    refusal = refusal_of(error)
    assert (refusal.status, refusal.code) == (status, code)
    assert (refusal.retry_after_s is not None) is comes_again
    assert refusal.detail.endswith((".", "no", "enough", "no device"))


def test_a_busy_session_names_the_run_that_is_written() -> None:
    """A client can then watch or stop it."""
    assert refusal_of(LaneBusy("run1")).members["run_id"] == "run1"


def test_an_unforeseen_failure_tells_nothing_of_our_inside(caplog: pytest.LogCaptureFixture) -> None:
    """The client gets a plain 500; the log gets the trace."""
    refusal = refusal_of(ValueError("password=secret"))
    assert refusal.status == 500
    assert "secret" not in refusal.detail
    assert "password=secret" in caplog.text


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        (b'{"name": 5}', "name", "Expected `str`"),
        (b"{}", "name", "missing required field"),
        (b'{"name":"x","nam":1}', "nam", "unknown field"),
        (b'{"name":"x","temperature":9}', "temperature", "<= 2.0"),
    ],
)
def test_a_wrong_field_is_named(body: bytes, field: str, part: str) -> None:
    """The answer says which value is wrong and what was expected there."""
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.json.decode(body, type=PersonaDraft)
    found = field_error(str(caught.value))
    assert found.field == field
    assert part in found.message
    assert refusal_of(caught.value).status == 400


@pytest.mark.parametrize("text", ["", "  ", "\n\t"])
@pytest.mark.parametrize(
    ("kind", "field", "others"),
    [
        (ChatFrame, "message", {"type": "chat", "persona_id": "alice"}),
        (ChatRequest, "message", {"persona_id": "alice"}),
        (EditRequest, "message", {}),
        (Question, "message", {"persona_ids": ["alice"]}),
        (PersonaDraft, "name", {}),
        (MemoryDraft, "text", {}),
        (SessionChange, "title", {}),
        (SearchRequest, "query", {}),
    ],
)
def test_a_text_that_says_nothing_is_refused(kind: type, field: str, others: dict[str, object], text: str) -> None:
    """At every door in the same words, whether it is empty or blank; one word more is enough."""
    assert getattr(msgspec.convert({**others, field: f"{text}a"}, kind), field) == f"{text}a"
    with pytest.raises(msgspec.ValidationError) as caught:
        msgspec.convert({**others, field: text}, kind)
    refusal = refusal_of(caught.value)
    assert (refusal.status, refusal.code) == (400, "invalid")
    assert refusal.detail == f"The request does not fit: Expected text that is not blank - at `$.{field}`."
    assert [(error.field, error.message) for error in refusal.errors] == [(field, "Expected text that is not blank")]
