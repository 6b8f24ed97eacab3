"""The OpenAPI document, made from the table of routes: it cannot say anything that is not served."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Iterable
from typing import Any

import msgspec

from app import __version__
from app.web import OpenAIError, Problem, Route

REF = "#/components/schemas/{name}"
PROBLEM_MEDIA = "application/problem+json"
EVENTS_MEDIA = "text/event-stream"
EVENTS = {"description": "Server-sent events; docs/api.md lists them."}
UPLOADS: dict[str, dict[str, Any]] = {
    "application/offset+octet-stream": {"type": "string", "format": "binary"},
    "multipart/form-data": {
        "type": "object",
        "required": ["file"],
        "properties": {
            "file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
            "paths": {"type": "array", "items": {"type": "string"}},
            "stores": {"type": "array", "items": {"type": "string"}},
            "persona_id": {"type": "string"},
            "upload_id": {"type": "string"},
            "name": {"type": "string"},
        },
    },
    "pictures": {
        "type": "object",
        "required": ["model", "file"],
        "properties": {
            "model": {"type": "string", "minLength": 1, "maxLength": 128},
            "file": {"type": "array", "minItems": 1, "items": {"type": "string", "format": "binary"}},
            "top_k": {"type": "integer", "minimum": 1, "maximum": 100},
        },
    },
}
"""Bodies that are read as they come."""
IDENTIFIER = {"type": "string", "minLength": 1, "maxLength": 64, "pattern": "^[A-Za-z0-9._:-]+$"}
REASONS = {
    200: "OK",
    201: "Created",
    202: "Accepted: it waits or is being written",
    204: "Done, or nothing to tell",
    400: "The request cannot be read or does not fit",
    401: "An API key is needed",
    403: "The request comes from a foreign site or host",
    404: "Nothing has this id",
    409: "The state of things does not allow it now",
    410: "It was deleted",
    412: "Another version of the protocol was asked for",
    413: "The body is too long",
    415: "The body has another media type than this one reads",
    422: "The model cannot answer this, or the idempotency key belongs to another message",
    423: "Another request is writing this file",
    429: "The queue is full; Retry-After says when to come again",
    502: "The run failed on its device",
    503: "Broker, database or device is away; Retry-After says when to come again",
    504: "Not ready in time",
    507: "The disk is full",
}


def document(routes: Iterable[Route]) -> dict[str, Any]:
    """The document of these routes."""
    routes = list(routes)
    schemas, components = _schemas(routes)
    paths: dict[str, Any] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Coral Reef",
            "version": __version__,
            "description": "Self-hosted personas on small accelerators. The WebSocket at /ws is described in "
            "docs/api.md.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {
                "bearer": {"type": "http", "scheme": "bearer"},
                "cookie": {"type": "apiKey", "in": "cookie", "name": "reef_key"},
            },
        },
        "security": [{}, {"bearer": []}, {"cookie": []}],
    }


@functools.cache
def served() -> bytes:
    """The document of all routes, as it is served."""
    from app.api.routes import ROUTES

    return msgspec.json.encode(document(ROUTES))


def _schemas(routes: list[Route]) -> tuple[dict[Any, Any], dict[str, Any]]:
    kinds: list[Any] = [Problem, OpenAIError]
    for route in routes:
        kinds += [kind for kind in (route.body, *route.answers.values()) if _is_type(kind)]
    unique = list(dict.fromkeys(kinds))
    found, components = msgspec.json.schema_components(unique, ref_template=REF)
    return dict(zip(unique, found, strict=True)), components


def _is_type(kind: Any) -> bool:
    return kind is not None and not isinstance(kind, str)


def _operation(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": re.sub(r"\W+", "_", f"{route.method.lower()}_{route.path.strip('/')}").strip("_"),
        "summary": (inspect.getdoc(route.handler) or "").split("\n", maxsplit=1)[0].rstrip("."),
        "tags": [route.tag],
        "responses": _responses(route, schemas),
    }
    if parameters := _parameters(route):
        operation["parameters"] = parameters
    if route.upload:
        operation["requestBody"] = {
            "required": True,
            "content": {route.upload: {"schema": UPLOADS[route.upload_form or route.upload]}},
        }
    if route.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": schemas[route.body]}}}
    return operation


def _parameters(route: Route) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": IDENTIFIER}
        for name in re.findall(r"\{(\w+)\}", route.path)
    ]
    if route.query is not None:
        _, components = msgspec.json.schema_components([route.query], ref_template=REF)
        for name, schema in components[route.query.__name__]["properties"].items():
            found.append({"name": name, "in": "query", "required": False, "schema": schema})
    for name, text in route.headers.items():
        found.append({"name": name, "in": "header", "required": False, "description": text, "schema": _header(name)})
    return found


def _header(name: str) -> dict[str, Any]:
    if name == "Tus-Resumable":
        return {"type": "string", "enum": ["1.0.0"]}
    if name in ("Upload-Offset", "Upload-Length"):
        return {"type": "string", "pattern": "^[0-9]{1,15}$"}
    if name == "Last-Event-ID":
        return {"type": "string", "pattern": "^[0-9]{1,15}$"}
    return {"type": "string", "minLength": 1, "maxLength": 128, "pattern": "^[A-Za-z0-9._:-]+$"}


def _responses(route: Route, schemas: dict[Any, Any]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for status, kind in route.answers.items():
        responses[str(status)] = _answer(status, kind, schemas)
    if route.streamed:
        responses["200"]["content"][EVENTS_MEDIA] = {"schema": EVENTS}
    openai = route.path.startswith("/v1/")
    media, problem = ("application/json", OpenAIError) if openai else (PROBLEM_MEDIA, Problem)
    for status in sorted({*route.all_errors} - set(route.answers)):
        responses[str(status)] = {"description": REASONS[status], "content": {media: {"schema": schemas[problem]}}}
    return responses


def _answer(status: int, kind: Any, schemas: dict[Any, Any]) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": REASONS[status]}
    if isinstance(kind, str):
        answer["content"] = {kind: {"schema": EVENTS if kind == EVENTS_MEDIA else {"type": "string"}}}
    elif kind is not None:
        answer["content"] = {"application/json": {"schema": schemas[kind]}}
    return answer
