"""What a failure means to a client: one table from exceptions to status, code and a sentence. Formats nothing.

HTTP turns a Refusal into problem+json or OpenAI's error shape, the WebSocket into an `error` event.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable
from typing import Any

import msgspec
import redis
import sqlalchemy.exc
from werkzeug.exceptions import HTTPException
from werkzeug.routing.exceptions import WebsocketMismatch

from app.listener import Closed, TooMany
from reef.contracts.frames import NOT_BLANK
from reef.conversation.store import DeletedSession, UnknownMessage, UnknownSession
from reef.conversation.turns import KeyReused, NotEditable, PoolClosed
from reef.knowledge.documents import UnknownDocument
from reef.knowledge.names import BadName
from reef.knowledge.originals import Busy, DiskFull
from reef.knowledge.uploads import UnknownStore, UnknownUpload, UploadClosed, UploadFull
from reef.ledger import LaneBusy, PoolFull, UnknownJob
from reef.models.errors import BadModelName, ModelError, ModelInUse, ModelMissing, NotLoaded
from reef.models.serving import UnknownNode
from reef.personas.store import PersonaLimit, UnknownPersona
from reef.placement.operator import NothingDecided, NotMovable, UnknownDevice, UnknownPool
from reef.placement.store import Outdated
from tasks.dispatch import BrokerDown

log = logging.getLogger(__name__)

RETRY_SOON_S = 1.0
RETRY_FULL_S = 5.0
"""Advice to a client of a full pool whose speed is not known yet."""


class FieldError(msgspec.Struct, frozen=True):
    """One value that cannot be used."""

    field: str
    message: str


class Refusal(Exception):
    """An answer that is not what the client hoped for. `code` is for programs, `detail` for a person."""

    def __init__(
        self,
        status: int,
        code: str,
        title: str,
        detail: str,
        *,
        retry_after_s: float | None = None,
        errors: tuple[FieldError, ...] = (),
        headers: dict[str, str] | None = None,
        **members: Any,
    ) -> None:
        super().__init__(detail)
        self.status, self.code, self.title, self.detail = status, code, title, detail
        self.retry_after_s = retry_after_s
        self.errors = errors
        self.headers = headers or {}
        self.members = members


class BrokerAway(Exception):
    """The broker does not answer: nothing can be accepted now."""


def refusal_of(error: BaseException) -> Refusal:
    """What this failure means to the client. One that has no meaning is logged and becomes a 500."""
    if isinstance(error, Refusal):
        return error
    if isinstance(error, HTTPException):
        return _of_http(error)
    if isinstance(error, msgspec.DecodeError | UnicodeDecodeError | RecursionError):
        return _of_shape(error)
    meanings = (_of_domain, _of_knowledge, _of_models, _of_places, _of_busy, _of_outage)
    known = next((found for meaning in meanings if (found := meaning(error)) is not None), None)
    if known is None:
        log.error("a request failed", exc_info=error)
        return Refusal(500, "internal", "Internal error", "Something went wrong here; the log has the details.")
    return known


_UNKNOWN: dict[type[Exception], str] = {
    UnknownPersona: "persona",
    UnknownSession: "session",
    UnknownMessage: "message",
    UnknownJob: "run",
}


def _of_domain(error: BaseException) -> Refusal | None:
    key = str(error.args[0]) if error.args else ""
    for kind, what in _UNKNOWN.items():
        if isinstance(error, kind):
            return not_found(what, key)
    if isinstance(error, DeletedSession):
        detail = "This chat was deleted, so nothing can be said in it; without its session_id a new one begins."
        return Refusal(410, "session_deleted", "Session deleted", detail)
    if isinstance(error, NotEditable):
        return Refusal(409, "not_editable", "Not possible for this message", str(error))
    if isinstance(error, KeyReused):
        return Refusal(422, "key_reused", "Key used again", str(error))
    if isinstance(error, PersonaLimit):
        return Refusal(409, "limit_reached", "Limit reached", f"{str(error)[:1].upper()}{str(error)[1:]}.")
    return None


def _of_knowledge(error: BaseException) -> Refusal | None:
    text = str(error)
    said = f"{text[:1].upper()}{text[1:]}{'' if text.endswith('.') else '.'}"
    if isinstance(error, UnknownDocument | UnknownUpload):
        what = "document" if isinstance(error, UnknownDocument) else "upload"
        return not_found(what, str(error.args[0]) if error.args else "")
    if isinstance(error, UnknownStore):
        return Refusal(404, "unknown_store", "Unknown store", said)
    if isinstance(error, UploadClosed):
        return Refusal(409, "not_possible", "Not possible now", said)
    if isinstance(error, UploadFull):
        return Refusal(413, "limit_reached", "Limit reached", said)
    if isinstance(error, BadName):
        return Refusal(400, "bad_name", "Bad name", said)
    if isinstance(error, Busy):
        return Refusal(423, "busy", "Being written", said, retry_after_s=RETRY_SOON_S)
    if isinstance(error, DiskFull):
        return Refusal(507, "disk_full", "Disk full", said)
    return None


def _of_models(error: BaseException) -> Refusal | None:
    text = str(error.args[0]) if error.args else ""
    if isinstance(error, UnknownNode):
        return Refusal(404, "unknown_node", "Unknown node", f"{text[:1].upper()}{text[1:]}.")
    if isinstance(error, BadModelName):
        return Refusal(422, "bad_name", "Not a name", text)
    if isinstance(error, NotLoaded):
        return Refusal(409, "not_loaded", "Not loaded", text)
    if isinstance(error, ModelMissing):
        return Refusal(404, "unknown_model", "Unknown model", text)
    if isinstance(error, ModelInUse):
        return Refusal(409, "in_use", "In use", text)
    if isinstance(error, ModelError):
        return Refusal(409, "not_possible", "Not possible now", text)
    return None


def _of_places(error: BaseException) -> Refusal | None:
    if isinstance(error, UnknownDevice):
        return Refusal(404, "unknown_device", "Unknown device", str(error))
    if isinstance(error, UnknownPool):
        return Refusal(404, "unknown_pool", "Unknown pool", str(error), errors=(FieldError("pool", str(error)),))
    if isinstance(error, NothingDecided):
        return Refusal(409, "not_decided", "Nothing to take back", str(error))
    if isinstance(error, NotMovable):
        return Refusal(409, "not_movable", "Not movable", str(error))
    if isinstance(error, Outdated):
        detail = f"Others keep deciding about {error}; look where it is now and try again."
        return Refusal(409, "outdated", "Decided meanwhile", detail)
    return None


def _of_busy(error: BaseException) -> Refusal | None:
    if isinstance(error, LaneBusy):
        detail = "A reply of this persona in this session is still being written; wait for it or stop it."
        return Refusal(409, "session_busy", "Session busy", detail, run_id=error.job_id)
    if isinstance(error, PoolFull):
        wait_s = error.wait_s or RETRY_FULL_S
        detail = f"{error.waiting} requests wait already, which is the limit; try again in {wait_s:.0f} s."
        queue = {"pool": error.pool, "waiting": error.waiting, "wait_s": error.wait_s}
        return Refusal(429, "pool_full", "Too many requests", detail, retry_after_s=wait_s, queue=queue)
    if isinstance(error, TooMany):
        return Refusal(429, "too_many", "Too many requests", str(error), retry_after_s=RETRY_SOON_S)
    return None


def _of_outage(error: BaseException) -> Refusal | None:
    if isinstance(error, PoolClosed):
        return Refusal(503, "no_device", "No device", str(error), retry_after_s=60.0)
    if isinstance(error, BrokerDown | BrokerAway | redis.RedisError):
        detail = "The broker does not answer, so nothing can be accepted now; try again in a moment."
        return Refusal(503, "broker_down", "Broker down", detail, retry_after_s=RETRY_SOON_S)
    if isinstance(error, sqlalchemy.exc.OperationalError | sqlalchemy.exc.TimeoutError | sqlalchemy.exc.InterfaceError):
        log.warning("the database does not answer: %s", str(error).splitlines()[0])
        detail = "The database does not answer; try again in a moment."
        return Refusal(503, "database_down", "Database down", detail, retry_after_s=RETRY_SOON_S)
    if isinstance(error, Closed):
        detail = "This process is shutting down; try again in a moment."
        return Refusal(503, "shutting_down", "Shutting down", detail, retry_after_s=RETRY_SOON_S)
    return None


def not_found(what: str, key: str = "") -> Refusal:
    """Nothing has this id."""
    shown = f" {key!r}" if key else ""
    return Refusal(404, f"unknown_{what}", f"Unknown {what}", f"There is no {what}{shown}.")


def unknown_pool(name: str, pools: Iterable[str]) -> Refusal:
    """No pool has this name; `pools`: those there are."""
    return Refusal(404, "unknown_pool", "Unknown pool", f"There is no pool {name!r}; there are: {', '.join(pools)}.")


def _of_http(error: HTTPException) -> Refusal:
    if isinstance(error, WebsocketMismatch):
        return Refusal(400, "no_websocket", "No WebSocket", "This address speaks no WebSocket; /ws does.")
    status = error.code or 500
    title = error.name if status != 413 else "Content Too Large"
    code = re.sub(r"[^a-z]+", "_", title.lower()).strip("_")
    headers = {}
    if allowed := getattr(error, "valid_methods", None):
        headers["Allow"] = ", ".join(sorted(allowed))
    return Refusal(status, code, title, error.description or title, headers=headers)


_AT = re.compile(r" - at `\$\.?(?P<path>[^`]*)`$")
_BLANK = f"Expected `str` matching regex {NOT_BLANK!r}"
_BLANK_WORDS = "Expected text that is not blank"
_NAMED = re.compile(r"(?:required|unknown) field `(?P<name>[^`]+)`")


def _of_shape(error: Exception) -> Refusal:
    if not isinstance(error, msgspec.ValidationError):
        return Refusal(400, "not_json", "Not JSON", f"The body is not JSON: {error}.")
    said = str(error).replace(_BLANK, _BLANK_WORDS)
    return Refusal(400, "invalid", "Invalid request", f"The request does not fit: {said}.", errors=(field_error(said),))


def field_error(message: str) -> FieldError:
    """The field that msgspec complains about, and the complaint without its place."""
    place = _AT.search(message)
    named = _NAMED.search(message)
    parts = [part for part in (place["path"] if place else "", named["name"] if named else "") if part]
    return FieldError(".".join(parts), _AT.sub("", message))
