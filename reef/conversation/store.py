"""Sessions and messages in the records. Deciding what to say next is not done here."""

from __future__ import annotations

import re
import time
import uuid
from typing import Any

import msgspec
import sqlalchemy as sa

from reef.contracts.events import Citation, Metrics, Usage
from reef.records.database import Database
from reef.records.tables import ACTIVE_STATES, jobs, messages, sessions
from reef.records.words import fold, folded

TITLE_CHARS_MAX = 80
PREVIEW_CHARS_MAX = 120
SESSIONS_LISTED_MAX = 500
HISTORY_MAX = 2_000
"""Messages of one session that are shown and read at most, the newest ones."""


class UnknownSession(KeyError):
    """No session has this id."""


class DeletedSession(LookupError):
    """The session of this id was deleted."""


class UnknownMessage(KeyError):
    """No message has this id."""


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """A conversation with one persona. Times are Unix seconds."""

    id: str
    title: str
    persona_id: str
    created_at: float
    updated_at: float


class SessionSummary(Session, frozen=True, kw_only=True):
    """A session as it stands in a list."""

    messages: int
    preview: str
    active_run_id: str | None


class SessionPage(msgspec.Struct, frozen=True):
    """A part of the list of sessions, by last activity."""

    sessions: list[SessionSummary]
    next: str | None
    """Given as `before` it brings the sessions after these; null: there are none."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """One message. `state`: complete, stopped (by a person) or failed."""

    id: str
    session_id: str
    role: str
    persona_id: str | None
    content: str
    state: str
    run_id: str | None
    created_at: float
    usage: Usage | None = None
    metrics: Metrics | None = None
    citations: tuple[Citation, ...] | None = None
    """What a reply rests on; its run and number are left out."""
    finish_reason: str | None = None
    """Of a complete reply: `stop`, or `length` where it was cut off at its limit of tokens; null: not known."""
    notice: str | None = None
    """What a person was told beside the reply: that another model answered, that documents could not be searched."""

    @property
    def cut_off(self) -> bool:
        """Whether it is a reply that could go on."""
        return self.role == "assistant" and self.state == "complete" and self.finish_reason == "length"


_STRUCTURED: dict[str, Any] = {"usage": Usage, "metrics": Metrics, "citations": tuple[Citation, ...]}
"""Fields that are stored as JSON."""
_SESSION = [sessions.c[name] for name in Session.__struct_fields__]
_MESSAGE = [messages.c[name] for name in Message.__struct_fields__]

# Statements of every turn, built once: building them costs more than running them.
_SESSION_BY_ID = sa.select(*_SESSION).where(sessions.c.id == sa.bindparam("session"))
_TOUCH_SESSION = (
    sessions.update().where(sessions.c.id == sa.bindparam("session")).values(updated_at=sa.bindparam("now"))
)
_JOB_OF_SESSION = sa.select(jobs.c.id).where(jobs.c.session_id == sa.bindparam("session")).limit(1)
_INSERT_SESSION, _INSERT_MESSAGE = sessions.insert(), messages.insert()
_HISTORY = (
    sa.select(*_MESSAGE)
    .where(messages.c.session_id == sa.bindparam("session"), ~messages.c.superseded)
    .order_by(messages.c.number.desc())
    .limit(HISTORY_MAX)
)


def create_session(
    connection: sa.Connection, persona_id: str, session_id: str | None = None, title: str = ""
) -> Session:
    """Start a conversation."""
    now = time.time()
    session = Session(
        id=session_id or uuid.uuid4().hex, title=title, persona_id=persona_id, created_at=now, updated_at=now
    )
    connection.execute(_INSERT_SESSION, msgspec.structs.asdict(session))
    return session


def look_up_session(connection: sa.Connection, session_id: str) -> Session | None:
    """The session of that id, None where there is none."""
    row = connection.execute(_SESSION_BY_ID, {"session": session_id}).mappings().first()
    return Session(**row) if row else None


def refuse_deleted(connection: sa.Connection, session_id: str) -> None:
    """An id that no session has may be made into one, unless jobs of it are in the ledger: then there was one, and it
    is not to come back without its messages. Raises DeletedSession."""
    if connection.execute(_JOB_OF_SESSION, {"session": session_id}).first() is not None:
        raise DeletedSession(session_id)


def find_session(connection: sa.Connection, session_id: str) -> Session:
    """The session of that id. Raises UnknownSession."""
    session = look_up_session(connection, session_id)
    if session is None:
        raise UnknownSession(session_id)
    return session


def set_title(connection: sa.Connection, session_id: str, title: str) -> None:
    """Give a session another title."""
    title = title[:TITLE_CHARS_MAX]
    connection.execute(sessions.update().where(sessions.c.id == session_id).values(title=title, folded=folded(title)))


def rename_session(database: Database, session_id: str, title: str) -> Session:
    """Give a session another title. Raises UnknownSession."""
    with database.write() as connection:
        set_title(connection, session_id, title)
        return find_session(connection, session_id)


def delete_session(database: Database, session_id: str) -> None:
    """Delete a conversation with all its messages. Raises UnknownSession."""
    with database.write() as connection:
        if connection.execute(sessions.delete().where(sessions.c.id == session_id)).rowcount != 1:
            raise UnknownSession(session_id)


def list_sessions(
    database: Database, query: str = "", persona_id: str = "", limit: int = 100, before: str = ""
) -> SessionPage:
    """Sessions by last activity; `query` is looked for in titles and messages, `before` is a page's `next`.

    Raises ValueError where it is none.
    """
    limit = min(limit, SESSIONS_LISTED_MAX)
    shown = sa.and_(messages.c.session_id == sessions.c.id, ~messages.c.superseded)
    count = sa.select(sa.func.count()).select_from(messages).where(shown).scalar_subquery()
    last = (
        sa.select(sa.func.substr(messages.c.content, 1, PREVIEW_CHARS_MAX))
        .where(shown)
        .order_by(messages.c.number.desc())
        .limit(1)
        .scalar_subquery()
    )
    run = (
        sa.select(jobs.c.id)
        .where(jobs.c.session_id == sessions.c.id, jobs.c.state.in_(ACTIVE_STATES))
        .limit(1)
        .scalar_subquery()
    )
    select = sa.select(*_SESSION, count.label("messages"), last.label("preview"), run.label("active_run_id"))
    if query:
        said = sa.exists().where(shown, _contains(messages.c.folded, messages.c.content, query))
        select = select.where(sa.or_(_contains(sessions.c.folded, sessions.c.title, query), said))
    if persona_id:
        select = select.where(sessions.c.persona_id == persona_id)
    if before:
        select = select.where(_after(before))
    select = select.order_by(sessions.c.updated_at.desc(), sessions.c.id.desc()).limit(limit + 1)
    with database.read() as connection:
        rows = connection.execute(select).mappings()
        found = [SessionSummary(**{**row, "preview": row["preview"] or ""}) for row in rows]
    more, found = len(found) > limit, found[:limit]
    return SessionPage(found, f"{found[-1].updated_at!r}:{found[-1].id}" if more else None)


def _after(place: str) -> sa.ColumnElement[bool]:
    """What the list has after this place: a session that was used since has moved up and is not told twice."""
    when, _colon, session_id = place.partition(":")
    updated_at = float(when)
    same = sa.and_(sessions.c.updated_at == updated_at, sessions.c.id < session_id)
    return sa.or_(sessions.c.updated_at < updated_at, same)


def _contains(in_fold: sa.Column[Any], text: sa.Column[Any], query: str) -> sa.ColumnElement[bool]:
    """Whether a text has this in it, whatever its case: the same answer from every database."""
    pattern = "%" + re.sub(r"([%_\\])", r"\\\1", fold(query)) + "%"
    return sa.func.coalesce(in_fold, sa.func.lower(text)).like(pattern, escape="\\")


def add_message(connection: sa.Connection, message: Message) -> None:
    """Append a message to its session and move the session to the top."""
    values = msgspec.structs.asdict(message)
    for name in _STRUCTURED:
        if values[name] is not None:
            values[name] = msgspec.json.encode(values[name]).decode()
    connection.execute(_INSERT_MESSAGE, values)
    connection.execute(_TOUCH_SESSION, {"session": message.session_id, "now": time.time()})


def new_message(session_id: str, role: str, content: str, **fields: Any) -> Message:
    """A message that was not stored yet."""
    values = {"id": uuid.uuid4().hex, "persona_id": None, "state": "complete", "run_id": None} | fields
    return Message(session_id=session_id, role=role, content=content, created_at=time.time(), **values)


def find_message(connection: sa.Connection, message_id: str) -> Message:
    """The message of that id. Raises UnknownMessage."""
    row = connection.execute(sa.select(*_MESSAGE).where(messages.c.id == message_id)).mappings().first()
    if row is None:
        raise UnknownMessage(message_id)
    return _message(row)


def history(connection: sa.Connection, session_id: str) -> list[Message]:
    """The messages of a session that count, oldest first."""
    rows = connection.execute(_HISTORY, {"session": session_id}).mappings()
    return [_message(row) for row in rows][::-1]


def supersede_from(connection: sa.Connection, message: Message) -> None:
    """Take this message and everything after it out of the conversation; the rows are kept."""
    start = sa.select(messages.c.number).where(messages.c.id == message.id).scalar_subquery()
    connection.execute(
        messages.update()
        .where(messages.c.session_id == message.session_id, messages.c.number >= start)
        .values(superseded=True)
    )


def title_from(text: str) -> str:
    """A title for a conversation that begins with this text."""
    line = " ".join(text.split())
    return line if len(line) <= TITLE_CHARS_MAX else line[: TITLE_CHARS_MAX - 1].rstrip() + "…"


def _message(row: Any) -> Message:
    values = dict(row)
    for name, kind in _STRUCTURED.items():
        if values[name]:
            values[name] = msgspec.json.decode(values[name], type=kind)
    return Message(**values)
