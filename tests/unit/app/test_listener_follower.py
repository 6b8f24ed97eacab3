"""How far a client is in a run: what is told, what is dropped, what counts as a gap."""

from __future__ import annotations

import pytest

from app.follower import LIVE_MAX, Follower, Gap, follows
from app.items import item
from reef import streams
from reef.contracts.events import Done, Event, Restarted, Started, Stopped, Token, Usage


def number(token: int, n: int) -> int:
    return streams.number(token, n)


def token(seq: int, content: str = "x") -> Token:
    return Token(run_id="r", seq=seq, content=content)


def follower(after_seq: int = 0, *, whole: bool = False) -> Follower:
    return Follower("r", after_seq, whole=whole, ended=None)


def told(one: Follower, *events: Event, stored: bool = False) -> list[Event]:
    found: list[Event] = []
    for event in events:
        found += [heard.event for heard in one.take(item(event), stored=stored) if heard.event]
    return found


@pytest.mark.parametrize(
    ("last", "seq", "whole"),
    [
        (0, number(0, 1), True),
        (0, number(1, 1), True),
        (number(0, 1), number(1, 1), True),
        (number(1, 5), number(1, 6), True),
        (number(1, 5), number(2, 1), True),
        (number(1, 5), number(1, 7), False),
        (number(1, 5), number(2, 2), False),
        (0, number(1, 2), False),
        (number(1, 5), number(1, streams.NUMBERS_PER_CLAIM - 1), True),
    ],
)
def test_numbers_that_may_follow_each_other(last: int, seq: int, *, whole: bool) -> None:
    """Within a claim numbers count by one; the next claim begins at one; last words of the system may always come."""
    assert follows(last, seq) is whole


def test_what_was_told_is_not_told_again() -> None:
    """An event that comes twice, or from a worker that lost its claim, is dropped."""
    one = follower()
    first, second, late = token(number(2, 1)), token(number(2, 2)), token(number(1, 9))
    assert told(one, first, first, second, late, second) == [first, second]


def test_a_gap_in_announcements_asks_for_the_stream() -> None:
    """A number was skipped: nothing is told before the stream was read."""
    one = follower()
    told(one, token(number(1, 1)))
    with pytest.raises(Gap):
        one.take(item(token(number(1, 3))), stored=False)
    assert one.seq == number(1, 1)


def test_text_with_a_hole_is_held_back_until_it_begins_anew() -> None:
    """Where even the stream has a hole, half a text is not told; a restart heals it."""
    one = follower()
    assert told(one, Started(run_id="r", seq=number(1, 1), persona_id="p", device="d", model="m"))
    assert told(one, token(number(1, 5)), stored=True) == []
    again = Restarted(run_id="r", seq=number(1, 6), reason="x")
    rest = token(number(1, 7))
    assert told(one, again, rest, stored=True) == [again, rest]
    assert one.chars == 1


def test_whole_text_comes_once_before_the_end() -> None:
    """A client that asked for no streaming gets the text since the last restart as one token."""
    one = follower(whole=True)
    final = Done(run_id="r", seq=number(1, 5), usage=Usage(1, 2), message_id="m")
    events = told(
        one,
        token(number(1, 1), "lost"),
        Restarted(run_id="r", seq=number(1, 2), reason="x"),
        token(number(1, 3), "Hello "),
        token(number(1, 4), "there"),
        final,
    )
    assert [event.content for event in events if isinstance(event, Token)] == ["Hello there"]
    assert events[-1] is final


def test_nothing_follows_the_end() -> None:
    """After the final event every other one is dropped."""
    one = follower()
    final = Stopped(run_id="r", seq=number(1, 1), usage=Usage(0, 0))
    assert told(one, final, token(number(1, 2))) == [final]
    assert one.done


def test_a_slow_client_holds_a_bounded_number_of_events() -> None:
    """When its buffer is full it is emptied, and the client is told to read the stream."""
    one = follower()
    one.behind = False
    for n in range(1, LIVE_MAX + 1):
        assert one.offer(item(token(number(1, n))))
    assert len(one.live) == LIVE_MAX
    assert one.offer(item(token(number(1, LIVE_MAX + 1))))
    assert one.behind
    assert not one.live
    assert not one.offer(item(token(number(1, LIVE_MAX + 2)))), "until it caught up there is nothing to wake it for"


def test_text_length_is_unknown_to_one_who_came_late() -> None:
    """Who resumes in the middle may have any text before: its end is told from the records in full."""
    assert follower(number(1, 3)).chars is None
