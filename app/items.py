"""What is told to a client: an event with its text, made once for all who hear it."""

from __future__ import annotations

from typing import NamedTuple

from reef.contracts.events import Event, encode


class Item(NamedTuple):
    """Something to tell the client. `event` is None for an answer that is no event (pong)."""

    event: Event | None
    text: str


def item(event: Event) -> Item:
    """An event as it is told."""
    return Item(event, encode(event).decode())
