"""Writes docs/api.md from the table of routes and from the structs of frames and events: `python -m app.api_doc`."""

from __future__ import annotations

import inspect
import sys
from pathlib import Path
from typing import Any, get_args

import msgspec

from app.api.routes import ROUTES
from app.openapi import REASONS, document
from app.web import Route
from reef.contracts import events, frames

TARGET = Path(__file__).parents[1] / "docs" / "api.md"
TITLES = {
    "chat": "Chat",
    "runs": "Runs",
    "sessions": "Sessions",
    "personas": "Personas",
    "documents": "Documents",
    "uploads": "Uploads",
    "inference": "Inference",
    "system": "The reef itself",
    "openai": "OpenAI-compatible",
}

HEAD = """\
# API

<!-- Written by `python -m app.api_doc` from app/api/routes.py and reef/contracts; a test holds it to them. -->

Base URL: `http://127.0.0.1:8080`. Bodies are JSON (`Content-Type: application/json`), at most 1 MiB.
The machine-readable description is served at `/api/v1/openapi.json`. The same over gRPC: [grpc.md](grpc.md).

**Access.** Bound to loopback, no key is asked for; the `Host` must be a local name and a browser's request must come
from our own pages (`REEF_ALLOWED_ORIGINS` adds origins). Bound elsewhere, or with `REEF_REQUIRE_API_KEY=true`, every
request but `/healthz`, `/readyz` and the login page needs `Authorization: Bearer KEY` or the cookie that
`POST /api/v1/login` sets.

**Errors** under `/api/v1` are RFC 9457 `application/problem+json`:
`{type, title, status, detail, code, instance, request_id, errors?, retry_after_s?, run_id?, queue?}`; `code` is for
programs, `detail` for a person, `errors` names fields. Under `/v1` they have OpenAI's shape. A full queue answers 429
and an outage 503, both with `Retry-After`. Every answer carries `X-Request-ID`; send your own to find it in a log.

**Sessions** are made by `POST /api/v1/sessions`, or by the first message to an id of your own. The id of a session that
was deleted is not taken again for 30 days after its last reply: a message to it is answered 410 (`session_deleted`), so
that no client that still shows the chat brings it back without its messages.

**Server-sent events** carry `id:` (the event's `seq`), `event:` (its `type`) and `data:` (the event object). A comment
comes every 15 s. A browser resumes by itself with `Last-Event-ID`; 204 means that there is nothing left to tell.
Hanging up never stops a run, except on `/v1/chat/completions`, whose replies nobody else can watch.
"""

SOCKET = """\
## WebSocket `/ws`

A request without an upgrade is answered with 426: a proxy between must pass `Upgrade` and `Connection` on.

Text frames, one JSON object each, at most 256 KiB. A frame that cannot be used is answered with an `error` event that
has no `run_id`, and the socket stays open. `seq` grows within a run and has gaps where it was restarted: keep the
highest one you saw and send it as `last_seq` to resume. `seq` 0 marks a reading that is not part of the run's log.
A client that reads too slowly is brought up to date from the run's log; nothing is lost. Close code 1001: the server
restarts, come again. 1013: too many connections, or you send faster than you read.

There is one exception to the answer with an `error` event: a frame beyond 1 MiB, where a gateway holds the connection,
closes it with 1009 and the reason, and no event comes before. Its length is known from its header, so its bytes are
neither read nor kept, and what would come after them cannot be found; thousands of connections could not each be given
room to throw megabytes away. Come again and resume: runs go on. Without a gateway such a frame is read to its end,
thrown away and answered as any that is too long.

A chat turn is told as `queued` (repeated with `seq` 0 while it waits), `started`, `typing`, `token` …, and `done`,
`stopped` or `error`. `restarted` means: drop the text received so far for this run, it is told again. With
`"stream": false` the text comes as one `token` before `done`.

An upload that is subscribed to is told as an `upload` with `"snapshot": true`: how it stands in the records. Then come
a `document` for each file that changes and an `upload` with new counts, at most four a second. Ask for the list of
documents after the snapshot, and nothing is missed. `last_seq` tells what happened since, and then the snapshot.

The reef itself is told to who sends `watch_system`: a `system` with `"snapshot": true`, then about once a second a
`system` with what changed, also when nothing did; and `device_changed` and `model` when those happen. A client that
reads too slowly gets another snapshot.
"""


def text() -> str:
    """The whole document."""
    parts = [HEAD]
    described = document(ROUTES)
    for tag, title in TITLES.items():
        parts.append(f"## {title}\n")
        parts += [_route(route, described) for route in ROUTES if route.tag == tag]
    parts.append(SOCKET)
    parts.append("### Frames a client sends\n\n| type | fields | meaning |\n|---|---|---|")
    parts += [_struct(kind) for kind in get_args(frames.Frame)]
    parts.append("\n### Events the server sends\n\nEach also has `run_id`, `session_id` and `seq`.\n")
    parts.append("| type | fields | meaning |\n|---|---|---|")
    parts += [_struct(kind, hidden=events.Event.__struct_fields__) for kind in get_args(events.RunEvent)]
    parts += [_struct(kind, hidden=events.Event.__struct_fields__) for kind in get_args(events.UploadEvent)]
    parts += [_struct(kind, hidden=events.Event.__struct_fields__) for kind in get_args(events.SystemEvent)]
    parts.append("| `pong` |  | Answer to `ping`. |")
    return "\n".join(parts) + "\n"


def _route(route: Route, described: dict[str, Any]) -> str:
    operation = described["paths"][route.path][route.method.lower()]
    lines = [f"### `{route.method} {route.path}`\n", f"{inspect.getdoc(route.handler)}\n"]
    for parameter in operation.get("parameters", []):
        if parameter["in"] != "path":
            described_as = f": {parameter['description']}" if "description" in parameter else ""
            lines.append(f"- {parameter['in']} `{parameter['name']}`{described_as}")
    if route.upload:
        lines.append(f"- body `{route.upload}`, read as it comes")
    if route.body is not None:
        lines.append(f"- body {_fields(route.body)}")
    for status, kind in route.answers.items():
        lines.append(f"- **{status}** {_shape(kind) or REASONS[status]}")
    if route.streamed:
        lines.append("- **200** with `stream`: server-sent events")
    refusals = sorted(route.all_errors - set(route.answers) - {401, 403})
    lines.append(f"- refusals: {', '.join(map(str, refusals))}" if refusals else "- refuses nothing")
    return "\n".join(lines) + "\n"


def _shape(kind: Any) -> str:
    if kind is None:
        return ""
    if isinstance(kind, str):
        return f"`{kind}`"
    if not hasattr(kind, "__struct_fields__"):
        return "a JSON object"
    return _fields(kind)


def _fields(kind: Any) -> str:
    names = []
    for field in msgspec.structs.fields(kind):
        names.append(field.encode_name if field.required else f"{field.encode_name}?")
    return f"`{{{', '.join(names)}}}`"


def _struct(kind: Any, hidden: tuple[str, ...] = ()) -> str:
    names = []
    for field in msgspec.structs.fields(kind):
        if field.name not in hidden:
            names.append(f"`{field.name}`" if field.required else f"`{field.name}`?")
    meaning = " ".join((inspect.getdoc(kind) or "").split()).replace("|", "\\|")
    return f"| `{kind.__struct_config__.tag}` | {', '.join(names)} | {meaning} |"


def main() -> int:
    """Write the file."""
    TARGET.write_text(text(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
