"""What devices did is found again in the ledger's rows: replies written by a known curve give that curve."""

from __future__ import annotations

import pytest
from planning_parts import layout, load

from reef.contracts.jobs import CompletionJob
from reef.ledger import Ledger, NewJob
from reef.planning import simulate
from reef.planning.curves import Batching
from reef.planning.measured import Reply, TooFew, fit, recent_replies
from reef.planning.units import ServingUnit, Turn
from reef.records.database import Database

CURVE = Batching(step_fixed_s=0.009, step_stream_s=0.002, prompt_fixed_s=0.03, prompt_token_s=0.0002, streams=8)


def written(conversations: int, think_s: float, monkeypatch: pytest.MonkeyPatch) -> list[Reply]:
    """The rows that a device of this curve would leave."""
    rows: list[Reply] = []
    ended = ServingUnit._settle

    def note(unit: ServingUnit) -> None:
        live: list[Turn] = [stream.turn for stream in unit._live]
        ended(unit)
        for turn in live:
            if turn.ended is not None:
                assert turn.started is not None
                assert turn.first is not None
                rows.append(
                    Reply(
                        node="chat-cpu",
                        started=turn.started,
                        first=turn.first,
                        ended=turn.ended,
                        prompt=round(turn.prompt),
                        tokens=round(turn.reply),
                    )
                )

    monkeypatch.setattr(ServingUnit, "_settle", note)
    asked = load(conversations=conversations, think_s=think_s, prompt=100, reply=80, lengths="lognormal")
    simulate.run(layout(CURVE), asked, 1, 1, span_s=120)
    return [row for row in rows if row.tokens >= 8]


def test_a_curve_is_found_again_from_its_replies(monkeypatch: pytest.MonkeyPatch) -> None:
    """From one, three and eight conversations that come and go, the time of a step is found within 10 %."""
    rows: list[Reply] = []
    for place, conversations in enumerate((1, 3, 8)):
        for row in written(conversations, 0.5, monkeypatch):
            later = 10_000.0 * place
            rows.append(
                Reply(
                    node=row.node,
                    started=row.started + later,
                    first=row.first + later,
                    ended=row.ended + later,
                    prompt=row.prompt,
                    tokens=row.tokens,
                )
            )
        monkeypatch.undo()
    found = fit(rows, streams=8)
    for conversations in (1, 2, 4, 8):
        assert found.step_s(conversations) == pytest.approx(CURVE.step_s(conversations), rel=0.10)
    assert found.prompts_s([100]) == pytest.approx(CURVE.prompts_s([100]), rel=0.25)


def test_few_replies_say_nothing() -> None:
    """A plan is not built on three chats."""
    row = Reply(node="a", started=0.0, first=0.1, ended=1.0, prompt=10, tokens=50)
    with pytest.raises(TooFew, match="3 whole replies"):
        fit([row] * 3, streams=8)


def test_one_conversation_says_nothing_about_many() -> None:
    """Where nobody ever spoke at the same time, batching is taken from the reference device, not for free."""
    rows = [
        Reply(node="a", started=10.0 * n, first=10 * n + 0.1, ended=10 * n + 1.1, prompt=10, tokens=101)
        for n in range(10)
    ]
    found = fit(rows, streams=8)
    assert found.step_s(1) == pytest.approx(0.01)
    assert found.step_s(8) > 1.3 * found.step_s(1)


def test_replies_are_read_from_the_ledger(any_database: Database) -> None:
    """Whole replies with a first word, from either database; not what failed, ran twice, is no reply or was played."""
    clock = [1_000_000.0]
    ledger = Ledger(any_database, lambda: clock[0])

    def job(result: dict[str, object] | None, attempts: int = 1, node: str = "chat-cpu") -> None:
        with any_database.write() as connection:
            new = NewJob(job=CompletionJob(messages=[], tokens_max=4), deadline_s=600.0, attempts_max=5)
            record = ledger.submit(connection, new, waiting_max=100, streams=2)
        for _ in range(attempts - 1):
            claim = ledger.claim(record.id, node, 5)
            assert claim is not None
            ledger.retry_later(claim, "again", 0.0)
        claim = ledger.claim(record.id, node, 5)
        assert claim is not None
        clock[0] += 2.0
        if result is None:
            ledger.retry_later(claim, "no", 60.0)
        else:
            ledger.finish(claim, "done", result=result)

    usage = {"prompt": 20, "completion": 40}
    job({"usage": usage, "metrics": {"first_token_s": 0.5}, "content": "x", "finish_reason": "stop"})
    job({"usage": usage, "metrics": {}})
    job({"usage": {"prompt": 20, "completion": 3}, "metrics": {"first_token_s": 0.5}})
    job({"vectors": 3})
    job(None)
    job({"usage": usage, "metrics": {"first_token_s": 0.5}}, attempts=2)
    job({"usage": usage, "metrics": {"first_token_s": 0.5}}, node="chat-simulated-0")
    (reply,) = recent_replies(any_database)
    assert (reply.node, reply.prompt, reply.tokens) == ("chat-cpu", 20, 40)
    assert reply.first - reply.started == pytest.approx(0.5)
    assert reply.ended - reply.started == pytest.approx(2.0)
