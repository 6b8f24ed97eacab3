"""Between protobuf messages and the structs of REST, WebSocket and domain, by the names of their fields.

What a request may contain is decided by the struct alone; a test holds messages and structs together.
"""

from __future__ import annotations

import math
from typing import Any, TypeVar

import msgspec
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message

from app.grpc_api.generated import coral_reef_pb2 as pb
from app.refusals import FieldError, Refusal
from app.texts import refuse_nul_in
from reef.contracts.events import DocumentChanged, Event, Token, UploadProgress
from reef.contracts.frames import Identifier

T = TypeVar("T")
M = TypeVar("M", bound=Message)
COMMON = ("type", "run_id", "session_id", "seq")
"""What every event has, beside its own fields."""


def read(message: Message, kind: type[T], **named: str) -> T:
    """A request as that struct; `named` are fields of the struct that have another name in the message.

    Raises msgspec.ValidationError, which speaks of the message's fields, and Refusal.
    """
    values = _values(message)
    for field, name in named.items():
        if name in values:
            values[field] = values.pop(name)
    refuse_nul_in(values)
    try:
        return msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        said = str(error)
        for field, name in named.items():
            said = said.replace(f"`$.{field}`", f"`$.{name}`")
        raise msgspec.ValidationError(said) from None


def write(value: msgspec.Struct, kind: type[M], **more: Any) -> M:
    """A struct as that message. Fields the message does not have are left out."""
    return ParseDict(msgspec.to_builtins(value) | more, kind(), ignore_unknown_fields=True)


def run_event(event: Event) -> pb.RunEvent:
    """An event of a run."""
    told = pb.RunEvent(run_id=event.run_id, session_id=event.session_id, seq=event.seq)
    if isinstance(event, Token):  # nearly all of them are
        told.token.content = event.content
        return told
    values = msgspec.to_builtins(event)
    field = getattr(told, values["type"])
    field.SetInParent()
    ParseDict({name: value for name, value in values.items() if name not in COMMON}, field, ignore_unknown_fields=True)
    return told


def upload_event(event: Event) -> pb.UploadEvent:
    """An event of an upload."""
    if isinstance(event, UploadProgress):
        return pb.UploadEvent(seq=event.seq, progress=write(event, pb.UploadProgress))
    if isinstance(event, DocumentChanged):
        return pb.UploadEvent(seq=event.seq, document=write(event, pb.DocumentChanged))
    raise TypeError(f"{type(event).__name__} is no event of an upload")


def _values(message: Message) -> dict[str, Any]:
    """What was set, by name: a field that is absent, or empty where that cannot be told apart, is left out."""
    return {field.name: _value(field, value) for field, value in message.ListFields()}


def _value(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is None:
        return [_finite(field, one) for one in value] if field.is_repeated else _finite(field, value)
    if field.message_type.GetOptions().map_entry:
        return dict(value)
    return [_values(one) for one in value] if field.is_repeated else _values(value)


def _finite(field: FieldDescriptor, value: Any) -> Any:
    """JSON has no NaN and no infinity, so the structs do not look for them."""
    if isinstance(value, float) and not math.isfinite(value):
        detail = f"`{field.name}` must be a number, not {value}."
        raise Refusal(400, "invalid", "Invalid request", detail, errors=(FieldError(field.name, detail),))
    return value


def identifier(message: Message, field: str) -> str:
    """The id in this field of a request. Raises Refusal where it is none."""
    value = getattr(message, field)
    try:
        return msgspec.convert(value, Identifier)
    except msgspec.ValidationError as error:
        detail = f"`{field}`: {error}."
        raise Refusal(400, "invalid", "Invalid request", detail, errors=(FieldError(field, str(error)),)) from None
