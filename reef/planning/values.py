"""Values that a person writes by name, checked one by one; what is wrong is told in words, not in a library's types."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

Made = TypeVar("Made", bound=msgspec.Struct)


class BadValue(ValueError):
    """A value cannot be used; the message says which, and what is expected."""


def read_values(made: type[Made], values: object) -> Made:
    """A struct of these values, text or not. Raises BadValue."""
    if not isinstance(values, Mapping):
        raise BadValue("it is no mapping of names to values")
    known = {field.name: field for field in msgspec.structs.fields(made)}
    read: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            raise BadValue(f"there is no {name}; there are {', '.join(known)}")
        try:
            found = msgspec.convert(value, known[name].type, strict=False)
        except msgspec.ValidationError:
            found = math.nan
        if isinstance(found, float) and not math.isfinite(found):
            said = "none" if value is None else value
            raise BadValue(f"{name}={said}: expected {_words(inspect.type_info(known[name].type))}")
        read[name] = found
    return made(**read)


def _words(kind: inspect.Type) -> str:
    """What may stand there."""
    if isinstance(kind, inspect.UnionType):
        return " or ".join(_words(one) for one in kind.types)
    if isinstance(kind, inspect.NoneType):
        return "none"
    if isinstance(kind, inspect.LiteralType):
        return f"one of {', '.join(str(value) for value in kind.values)}"
    assert isinstance(kind, inspect.IntType | inspect.FloatType)  # noqa: S101 - a value of another kind needs words here
    what = "a whole number" if isinstance(kind, inspect.IntType) else "a number"
    if kind.ge is not None and kind.le is not None:
        return f"{what} from {kind.ge:g} to {kind.le:,}"
    if kind.ge is not None:
        return f"{what}, {kind.ge:g} or more"
    return f"{what} above {kind.gt:g}"
