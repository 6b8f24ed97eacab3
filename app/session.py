"""What a client may do over one long-lived connection: frames come in, events go out through its listener.

Knows no socket and no web framework; whatever carries text both ways can host it (app/sockets.py does).
"""

from __future__ import annotations

import time
from typing import NamedTuple

import msgspec

from app.desk import Accepted, Desk
from app.items import Item, item
from app.listener import Closed, Hopeless, Listener
from app.refusals import Refusal, refusal_of
from app.texts import refuse_nul
from reef.contracts.events import Error, Resumed
from reef.contracts.frames import (
    ChatFrame,
    Frame,
    PingFrame,
    ResumeFrame,
    StopFrame,
    SubscribeFrame,
    UnsubscribeFrame,
    WatchFrame,
    WatchSystemFrame,
    decode_frame,
)
from reef.ledger import JobRecord, Ledger

FRAME_MAX = 256 * 1024
"""Characters of a text frame, bytes of a binary one; a longer frame is thrown away and answered."""
INBOX_MAX = 8
"""Frames read ahead of the one being handled; then its host stops reading and TCP holds the client back."""
GOING_AWAY, TRY_LATER = 1001, 1013
ENDS: dict[type[Exception], tuple[int, str]] = {
    Closed: (GOING_AWAY, "The server restarts; come again."),
    Hopeless: (TRY_LATER, "You send faster than you read."),
}
"""Code and reason with which a host closes the connection."""
PONG = Item(None, '{"type":"pong"}')
SETTLED_S = 2.0
"""A run that ended longer ago has its last event in the stream, or it will never be there."""
BLOCKING = (ChatFrame, ResumeFrame, StopFrame)
"""Kinds of frames whose handling waits for the database or the broker."""


class TooLong(NamedTuple):
    """Stands for a frame that was thrown away because of its size."""

    size_max: int


class ClientSession:
    """Handles one client's frames. Not thread-safe: one reader calls `receive`."""

    __slots__ = ("_desk", "_ledger", "_listener")

    def __init__(self, desk: Desk, ledger: Ledger, listener: Listener) -> None:
        self._desk, self._ledger, self._listener = desk, ledger, listener

    def receive(self, raw: str | bytes | TooLong) -> None:
        """Handle a frame. Whatever is wrong with it is answered with an `error` event; nothing is raised."""
        frame = self.read(raw)
        if frame is not None:
            self.handle(frame)

    def read(self, raw: str | bytes | TooLong) -> Frame | None:
        """What a frame says; None where it was no frame and this was answered. Waits for nothing."""
        try:
            return _decode(raw)
        except Exception as error:  # noqa: BLE001 - refusal_of logs what it does not know
            self.refuse(refusal_of(error))
            return None

    def handle(self, frame: Frame) -> None:
        """Do what it says. One of the kinds in BLOCKING waits for database and broker."""
        try:
            self.act(frame)
        except Exception as error:  # noqa: BLE001 - refusal_of logs what it does not know
            self.refuse(refusal_of(error))

    def refuse(self, refusal: Refusal) -> None:
        """Answer with an `error` event."""
        answer = Error(code=refusal.code, message=refusal.detail, retry_after_s=refusal.retry_after_s)
        self._listener.tell(item(answer))

    def act(self, frame: Frame) -> None:
        """The same. Raises whatever refuses it."""
        match frame:
            case ChatFrame():
                self._chat(frame)
            case ResumeFrame():
                self._resume(frame)
            case WatchFrame():
                self._listener.watch(frame.session_id)
            case SubscribeFrame():
                self._listener.subscribe(frame.upload_id, frame.last_seq)
            case UnsubscribeFrame():
                self._listener.unsubscribe(frame.upload_id)
            case WatchSystemFrame():
                if frame.on:
                    self._listener.watch_system()
                else:
                    self._listener.unwatch_system()
            case StopFrame():
                self._desk.stop(frame.run_id)
            case PingFrame():
                self._listener.tell(PONG)

    def _chat(self, frame: ChatFrame) -> None:
        self._listener.check_room()

        def follow(accepted: Accepted) -> None:
            ended = accepted.run if settled(accepted.run) else None
            self._listener.tell(item(accepted.queued))
            self._listener.follow(accepted.run.id, accepted.queued.seq, whole=not frame.stream, ended=ended)

        with self._listener.saying():
            self._desk.say(
                frame.persona_id,
                frame.message,
                session_id=frame.session_id,
                idempotency_key=frame.idempotency_key,
                tokens_max=frame.tokens_max,
                on_accepted=follow,
            )

    def _resume(self, frame: ResumeFrame) -> None:
        record = self._ledger.get(frame.run_id)
        resumed = Resumed(
            run_id=record.id, session_id=record.session_id or "", after_seq=frame.last_seq, state=record.state
        )
        self._listener.tell(item(resumed))
        self._listener.follow(record.id, frame.last_seq, ended=record if settled(record) else None)


def full(sockets_max: int) -> str:
    """The reason of TRY_LATER for one connection too many."""
    return f"This server holds {sockets_max} connections, its limit."


def settled(record: JobRecord) -> bool:
    """Whether the run ended long enough ago that all its events were written."""
    return record.ended and time.time() - (record.finished_at or 0.0) > SETTLED_S


def _decode(raw: str | bytes | TooLong) -> Frame:
    if isinstance(raw, TooLong):
        raise Refusal(413, "too_long", "Frame too long", f"A frame may have {raw.size_max} characters.")
    if isinstance(raw, bytes):
        raise Refusal(400, "binary", "Binary frame", "Frames are JSON text; this one was binary.")
    try:
        frame = decode_frame(raw)
    except msgspec.ValidationError:
        raise
    except (msgspec.DecodeError, UnicodeEncodeError) as error:
        raise Refusal(400, "not_json", "Not JSON", f"The frame is not JSON: {error}.") from None
    refuse_nul(raw, frame)
    return frame
