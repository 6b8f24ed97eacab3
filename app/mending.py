"""What a run's stream cannot tell a client of its end, or of its text, told as the records have it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from app.follower import Follower
from app.items import Item, item
from reef.contracts.events import Done, Restarted, Stopped, Token
from reef.ledger import JobRecord

if TYPE_CHECKING:
    from app.relay import Relay


def mended(relay: Relay, follower: Follower, told: list[Item]) -> list[Item]:
    """The same, where its end or its text was not to be had from the stream: as the records tell it."""
    if follower.done and follower.torn:
        return _mend(relay, follower, told)
    # a stream that cannot be read does not keep us from telling an end that the database knows
    more_stored = follower.behind and not follower.retry_at
    if follower.ended is not None and not follower.done and not more_stored:
        return told + _ending(relay, follower, follower.ended)
    return told


def _mend(relay: Relay, follower: Follower, told: list[Item]) -> list[Item]:
    """The run ended and text is missing: tell the stored text instead."""
    final = told[-1].event
    if not isinstance(final, Done | Stopped):
        return told
    record = relay.record(follower.run_id)
    if record is None or not record.ended:
        return told
    kept = [heard for heard in told[:-1] if follower.whole is None or not isinstance(heard.event, Token)]
    return kept + _ending(relay, follower, record)


def _ending(relay: Relay, follower: Follower, record: JobRecord) -> list[Item]:
    relay.count_reread("ledger")
    events = relay.ending(record, None if follower.torn else follower.chars)
    follower.done = True
    if follower.whole is not None:
        events = [event for event in events if not isinstance(event, Restarted)]
        if follower.whole and not any(isinstance(event, Token) for event in events):
            text = Token(content="".join(follower.whole), run_id=record.id, session_id=record.session_id or "")
            events.insert(0, msgspec.structs.replace(text, seq=events[-1].seq - 1))
    return [item(event) for event in events]
