"""What a WebSocket client may send. Each frame is one flat JSON object with a `type`."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

MESSAGE_CHARS_MAX = 32_000
"""Longest user message, in characters; longer ones are refused with a clear error."""

Identifier = Annotated[str, Meta(min_length=1, max_length=64, pattern=r"^[A-Za-z0-9._:-]+$")]
NOT_BLANK = r"\S"
"""Pattern of a text that must say something: neither empty nor blanks alone."""
MessageText = Annotated[str, Meta(max_length=MESSAGE_CHARS_MAX, pattern=NOT_BLANK)]


class ChatFrame(msgspec.Struct, frozen=True, tag_field="type", tag="chat", kw_only=True):
    """Say something to a persona. A session that does not exist yet is made; one that was deleted is refused."""

    persona_id: Identifier
    message: MessageText
    session_id: Identifier | None = None
    stream: bool = True
    idempotency_key: Annotated[str, Meta(min_length=1, max_length=128)] | None = None
    tokens_max: Annotated[int, Meta(ge=1, le=8192)] | None = None


class ResumeFrame(msgspec.Struct, frozen=True, tag_field="type", tag="resume", kw_only=True):
    """Watch a run from after the last event this client saw (0: from its beginning)."""

    run_id: Identifier
    last_seq: Annotated[int, Meta(ge=0)] = 0


class WatchFrame(msgspec.Struct, frozen=True, tag_field="type", tag="watch", kw_only=True):
    """Be told of every run that starts in this session, by whatever tab or device."""

    session_id: Identifier


class SubscribeFrame(msgspec.Struct, frozen=True, tag_field="type", tag="subscribe", kw_only=True):
    """Be told how an upload stands and what happens in it, again after the last event this client saw."""

    upload_id: Identifier
    last_seq: Annotated[int, Meta(ge=0, le=2**53)] = 0


class UnsubscribeFrame(msgspec.Struct, frozen=True, tag_field="type", tag="unsubscribe", kw_only=True):
    """Be told nothing more of an upload."""

    upload_id: Identifier


class WatchSystemFrame(msgspec.Struct, frozen=True, tag_field="type", tag="watch_system", kw_only=True):
    """Be told how the reef stands, and what changes, about once a second; `on` false: no longer."""

    on: bool = True


class StopFrame(msgspec.Struct, frozen=True, tag_field="type", tag="stop", kw_only=True):
    """Stop a run; stopping one that has ended is no error."""

    run_id: Identifier


class PingFrame(msgspec.Struct, frozen=True, tag_field="type", tag="ping", kw_only=True):
    """Ask for a pong."""


Frame = (
    ChatFrame | ResumeFrame | WatchFrame | SubscribeFrame | UnsubscribeFrame | WatchSystemFrame | StopFrame | PingFrame
)

_decoder: msgspec.json.Decoder[Frame] = msgspec.json.Decoder(Frame)


def decode_frame(raw: str | bytes) -> Frame:
    """Read a frame. Raises msgspec.DecodeError (msgspec.ValidationError where it is JSON of the wrong shape)."""
    return _decoder.decode(raw)
