"""The client of the benches notes the right moments."""

from __future__ import annotations

from bench.client import Turn


def test_a_turn_notes_its_first_text_and_its_end() -> None:
    """Time to first token ends with the first text, not with `started` or a second piece."""
    turn = Turn(session_id="s", sent=0.0)
    turn.hear({"type": "queued", "run_id": "r", "position": 1})
    turn.hear({"type": "started", "device": "cpu"})
    assert turn.first == 0.0
    turn.hear({"type": "token", "content": "Hel"})
    first = turn.first
    turn.hear({"type": "token", "content": "lo"})
    turn.hear({"type": "done", "usage": {"prompt": 5, "completion": 2}, "metrics": {"queue_s": 0.1}})
    assert (turn.run_id, turn.device, turn.end) == ("r", "cpu", "done")
    assert turn.first == first
    assert turn.queued <= turn.started <= turn.first <= turn.ended
    assert (turn.tokens, turn.prompt_tokens, turn.chars, len(turn.token_times)) == (2, 5, 5, 2)


def test_a_refusal_keeps_its_code_and_its_time() -> None:
    """A full pool is an end of its own kind."""
    turn = Turn(session_id="s", sent=0.0)
    turn.hear({"type": "error", "code": "pool_full", "message": "full", "retry_after_s": 4.0})
    assert (turn.end, turn.code, turn.retry_after_s) == ("error", "pool_full", 4.0)
