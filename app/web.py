"""HTTP in and out: routes as values, bodies and queries as typed structs, failures as problem+json or OpenAI errors.

Every JSON endpoint is a `Route`; Flask's URL map and the OpenAPI document are both made from the same list.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from flask import Flask, Response, g, request
from werkzeug.exceptions import UnsupportedMediaType
from werkzeug.routing import BaseConverter

from app.refusals import Refusal, refusal_of
from app.services import Services, services
from app.texts import NUL, refuse_nul

BODY_BYTES_MAX = 1024 * 1024
DRAIN_BYTES_MAX = 32 * 1024 * 1024
"""So much of a refused body is read and thrown away, so that its sender gets to read the answer."""


class Call(msgspec.Struct, frozen=True, kw_only=True):
    """A request as a handler sees it: checked and typed."""

    services: Services
    body: Any = None
    query: Any = None


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer with another status than 200, or with headers."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = {}


class Route(msgspec.Struct, frozen=True, kw_only=True):
    """One method of one path. `answers`: status to the struct of its JSON body, a media type, or None for no body."""

    method: str
    path: str
    handler: Callable[..., Any]
    answers: dict[int, Any]
    body: Any = None
    query: Any = None
    headers: dict[str, str] = {}
    """Request headers it reads, with what they mean."""
    errors: tuple[int, ...] = ()
    upload: str = ""
    """Media type of a body that the handler reads by itself as it comes, under limits of its own."""
    upload_form: str = ""
    """Name of that body's shape in the OpenAPI document; empty: the media type's own."""
    body_bytes_max: int = BODY_BYTES_MAX
    """Longest JSON body."""
    streamed: bool = False
    """Whether its 200 can also come as server-sent events."""
    tag: str = ""

    @property
    def rule(self) -> str:
        """The path as Flask writes it."""
        return re.sub(r"\{(\w+)\}", r"<ident:\1>", self.path)

    @property
    def all_errors(self) -> set[int]:
        """Every status this route may refuse with."""
        found = {401, 403, *self.errors}
        if self.path != "/healthz":
            found.add(503)
        if self.body is not None or self.upload:
            found |= {400, 413, 415}
        if self.query is not None or self.headers:
            found.add(400)
        return found

    @property
    def name(self) -> str:
        """Flask's endpoint; two paths of one handler share it."""
        module = self.handler.__module__.rpartition(".")[2]
        return f"{module}_{self.handler.__name__}"


class IdentifierConverter(BaseConverter):
    """Ids in paths: what reef.contracts.frames.Identifier accepts."""

    regex = r"[A-Za-z0-9._:-]{1,64}"


def register(app: Flask, routes: Iterable[Route]) -> None:
    """Serve these routes."""
    app.url_map.converters["ident"] = IdentifierConverter
    for route in routes:
        app.add_url_rule(
            route.rule,
            endpoint=route.name,
            view_func=app.view_functions.get(route.name) or _view(route),
            methods=[route.method],
            provide_automatic_options=False,
        )


def _view(route: Route) -> Callable[..., Response]:
    def view(**params: str) -> Response:
        call = Call(
            services=services(),
            body=read_body(route.body, route.body_bytes_max) if route.body is not None else None,
            query=read_query(route.query) if route.query is not None else None,
        )
        return respond(route.handler(call, **params))

    return view


def read_body(kind: Any, bytes_max: int = BODY_BYTES_MAX) -> Any:
    """The request's JSON body as that type. Raises msgspec.DecodeError and HTTPException."""
    request.max_content_length = bytes_max
    if request.mimetype != "application/json" and not request.mimetype.endswith("+json"):
        raise UnsupportedMediaType("The body must be JSON with Content-Type: application/json.")
    raw = request.get_data(cache=False)
    body = msgspec.json.decode(raw, type=kind)
    refuse_nul(raw, body)
    return body


def read_query(kind: Any) -> Any:
    """The query string as that struct. Raises msgspec.ValidationError and Refusal."""
    values = request.args.to_dict()
    if any(NUL in value or "�" in value for value in values.values()):
        raise Refusal(400, "not_text", "Invalid request", "The query string is not UTF-8 text.")
    return msgspec.convert(values, kind, strict=False)


def respond(result: Any) -> Response:
    """A handler's result as a response."""
    if isinstance(result, Response):
        return result
    answer = result if isinstance(result, Answer) else Answer(body=result)
    if answer.body is None:
        response = Response(status=answer.status)
        del response.headers["Content-Type"]
    else:
        response = Response(msgspec.json.encode(answer.body), answer.status, mimetype="application/json")
    response.headers.update(answer.headers)
    return response


# --- failures


class Problem(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """RFC 9457: what went wrong, in words for a person and a `code` for programs."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    instance: str = ""
    request_id: str = ""
    errors: list[dict[str, str]] = []
    retry_after_s: float | None = None
    run_id: str | None = None
    queue: dict[str, Any] | None = None


class OpenAIErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """The inside of an OpenAI error."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class OpenAIError(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """An error as OpenAI's clients read it; `queue` says how long the line is."""

    error: OpenAIErrorBody
    queue: dict[str, Any] | None = None


def answer_failure(error: BaseException) -> Response:
    """The response for whatever was raised."""
    refusal = refusal_of(error)
    if refusal.status == 413:
        _drain()
    shape = openai_error(refusal) if request.path.startswith("/v1/") else problem(refusal)
    media = "application/json" if isinstance(shape, OpenAIError) else "application/problem+json"
    response = Response(msgspec.json.encode(shape), refusal.status, mimetype=media)
    response.headers.update(refusal.headers)
    if refusal.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(refusal.retry_after_s)))
    return response


def problem(refusal: Refusal) -> Problem:
    """The refusal as problem+json."""
    return Problem(
        type=f"urn:coral-reef:problem:{refusal.code}",
        title=refusal.title,
        status=refusal.status,
        detail=refusal.detail,
        code=refusal.code,
        instance=request.path,
        request_id=g.get("request_id", ""),
        errors=[{"field": error.field, "message": error.message} for error in refusal.errors],
        retry_after_s=refusal.retry_after_s,
        run_id=refusal.members.get("run_id"),
        queue=refusal.members.get("queue"),
    )


def openai_error(refusal: Refusal) -> OpenAIError:
    """The refusal as OpenAI's clients know it."""
    kinds = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
    kind = "server_error" if refusal.status >= 500 else kinds.get(refusal.status, "invalid_request_error")
    param = refusal.members.get("param") or (refusal.errors[0].field if refusal.errors else None)
    return OpenAIError(
        error=OpenAIErrorBody(message=refusal.detail, type=kind, param=param or None, code=refusal.code),
        queue=refusal.members.get("queue"),
    )


def _drain() -> None:
    left = DRAIN_BYTES_MAX
    body = request.environ["wsgi.input"]
    try:
        while left > 0 and (chunk := body.read(min(left, 65536))):
            left -= len(chunk)
    except (OSError, ValueError):
        return
