"""The table of every JSON endpoint. Flask's URL map, the OpenAPI document and docs/api.md are made from it."""

from __future__ import annotations

from app.api import chat, openai, personas, runs, sessions
from app.api.inference import INFERENCE_ROUTES
from app.api.knowledge_routes import KNOWLEDGE_ROUTES
from app.api.model_routes import MODEL_ROUTES
from app.api.openai_shapes import Completion, CompletionRequest, Model, ModelList
from app.api.shapes import (
    AcceptedTurn,
    ChatRequest,
    EditRequest,
    EventsQuery,
    History,
    MemoryDraft,
    MessageView,
    PersonaEnd,
    PersonaList,
    PersonaView,
    Reply,
    RunState,
    RunView,
    SessionChange,
    SessionDraft,
    SessionQuery,
)
from app.api.system_routes import SYSTEM_ROUTES
from app.sse import MEDIA_TYPE
from app.web import Route
from reef.conversation.store import SessionPage, SessionSummary
from reef.personas.store import Memory, PersonaDraft

V1 = "/api/v1"
BUSY = (409, 429, 503)
KEY_HEADER = {"Idempotency-Key": "A text of your own, 1 to 128 characters: the same one again makes no second run."}
LAST_ID = {"Last-Event-ID": "Number of the last event seen; browsers send it by themselves when they reconnect."}

ROUTES: tuple[Route, ...] = (
    Route(method="GET", path=f"{V1}/personas", handler=personas.list_all, answers={200: PersonaList}, tag="personas"),
    Route(
        method="POST",
        path=f"{V1}/personas",
        handler=personas.create,
        body=PersonaDraft,
        answers={201: PersonaView},
        errors=(409,),
        tag="personas",
    ),
    Route(
        method="GET",
        path=f"{V1}/personas/{{persona_id}}",
        handler=personas.get,
        answers={200: PersonaView},
        errors=(404,),
        tag="personas",
    ),
    Route(
        method="PUT",
        path=f"{V1}/personas/{{persona_id}}",
        handler=personas.update,
        body=PersonaDraft,
        answers={200: PersonaView},
        errors=(404,),
        tag="personas",
    ),
    Route(
        method="DELETE",
        path=f"{V1}/personas/{{persona_id}}",
        handler=personas.delete,
        query=PersonaEnd,
        answers={204: None},
        errors=(404,),
        tag="personas",
    ),
    Route(
        method="POST",
        path=f"{V1}/personas/{{persona_id}}/memory",
        handler=personas.remember,
        body=MemoryDraft,
        answers={201: Memory},
        errors=(404, 409),
        tag="personas",
    ),
    Route(
        method="GET",
        path=f"{V1}/sessions",
        handler=sessions.list_some,
        query=SessionQuery,
        answers={200: SessionPage},
        tag="sessions",
    ),
    Route(
        method="POST",
        path=f"{V1}/sessions",
        handler=sessions.create,
        body=SessionDraft,
        answers={201: SessionSummary},
        errors=(404,),
        tag="sessions",
    ),
    Route(
        method="PATCH",
        path=f"{V1}/sessions/{{session_id}}",
        handler=sessions.rename,
        body=SessionChange,
        answers={200: SessionSummary},
        errors=(404,),
        tag="sessions",
    ),
    Route(
        method="GET",
        path=f"{V1}/chat/history/{{session_id}}",
        handler=sessions.history,
        answers={200: History},
        errors=(404,),
        tag="chat",
    ),
    Route(
        method="DELETE",
        path=f"{V1}/chat/history/{{session_id}}",
        handler=sessions.delete,
        answers={204: None},
        errors=(404,),
        tag="chat",
    ),
    Route(
        method="POST",
        path=f"{V1}/chat",
        handler=chat.say,
        body=ChatRequest,
        headers=KEY_HEADER,
        answers={200: Reply, 202: AcceptedTurn},
        errors=(404, 410, 422, 502, 504, *BUSY),
        tag="chat",
    ),
    Route(
        method="POST",
        path=f"{V1}/chat/stream",
        handler=chat.say_streamed,
        body=ChatRequest,
        headers=KEY_HEADER,
        answers={200: MEDIA_TYPE},
        errors=(404, 410, 422, *BUSY),
        tag="chat",
    ),
    Route(
        method="GET",
        path=f"{V1}/messages/{{message_id}}",
        handler=sessions.get_message,
        answers={200: MessageView},
        errors=(404,),
        tag="chat",
    ),
    Route(
        method="POST",
        path=f"{V1}/messages/{{message_id}}/regenerate",
        handler=sessions.regenerate,
        answers={202: AcceptedTurn},
        errors=(404, *BUSY),
        tag="chat",
    ),
    Route(
        method="POST",
        path=f"{V1}/messages/{{message_id}}/continue",
        handler=sessions.go_on,
        answers={202: AcceptedTurn},
        errors=(404, *BUSY),
        tag="chat",
    ),
    Route(
        method="POST",
        path=f"{V1}/messages/{{message_id}}/edit",
        handler=sessions.edit,
        body=EditRequest,
        answers={202: AcceptedTurn},
        errors=(404, *BUSY),
        tag="chat",
    ),
    Route(
        method="GET",
        path=f"{V1}/runs/{{run_id}}",
        handler=runs.get,
        answers={200: RunView},
        errors=(404,),
        tag="runs",
    ),
    Route(
        method="GET",
        path=f"{V1}/runs/{{run_id}}/events",
        handler=runs.events,
        query=EventsQuery,
        headers=LAST_ID,
        answers={200: MEDIA_TYPE, 204: None},
        errors=(404, 503),
        tag="runs",
    ),
    Route(
        method="POST",
        path=f"{V1}/runs/{{run_id}}/stop",
        handler=runs.stop,
        answers={200: RunState},
        errors=(404,),
        tag="runs",
    ),
    *SYSTEM_ROUTES,
    Route(method="GET", path="/v1/models", handler=openai.models, answers={200: ModelList}, tag="openai"),
    Route(
        method="GET",
        path="/v1/models/{model_id}",
        handler=openai.model,
        answers={200: Model},
        errors=(404,),
        tag="openai",
    ),
    Route(
        method="POST",
        path="/v1/chat/completions",
        handler=openai.complete,
        body=CompletionRequest,
        answers={200: Completion},
        streamed=True,
        errors=(404, 422, 429, 502, 504),
        tag="openai",
    ),
    *KNOWLEDGE_ROUTES,
    *INFERENCE_ROUTES,
    *MODEL_ROUTES,
)
